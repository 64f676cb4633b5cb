"""fuse-operators: fold what streams through a product into it.

Elementwise ops (bias, residual, activation, conversion) go into the epilogue of the linear that
feeds them, or of the sum over ranks that does, norms into the prologue of the linears that read
them, chains of elementwise ops into one, and the read of the step's token into the embedding.
Inside a fused region values keep fp32 between ops: the rounding to bf16 and back that separate ops
would do is dropped, which is never further from the fp32 reference.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import arith
from xdsl.dialects.builtin import AnyFloat, ModuleOp, TensorType, f32
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import (
    GreedyRewritePatternApplier,
    PatternRewriter,
    PatternRewriteWalker,
    RewritePattern,
    op_type_rewrite_pattern,
)
from xdsl.rewriter import Rewriter
from xdsl.transforms.dead_code_elimination import dce

from mpkir.dialects import tensor
from mpkir.passes.raising.scalar_forms import form_of
from mpkir.passes.scalar_regions import drop_roundings, inline_scalars

_PRODUCTS = (tensor.LinearOp, tensor.ExpertLinearOp)
_Summing = tensor.LinearOp | tensor.ExpertLinearOp | tensor.AllReduceOp


def _only_user(value: SSAValue) -> Operation | None:
    uses = tuple(value.uses)
    return uses[0].operation if len(uses) == 1 else None


def _is_in_step(op: Operation) -> bool:
    """Whether the op stands in the step itself, not in a region of another tensor op."""
    parent = op.parent_op()
    return parent is not None and not parent.name.startswith("mpk_tensor.")


def _drop_dead(block: Block) -> None:
    for op in reversed(tuple(block.ops)):
        if op is not block.last_op and not any(tuple(result.uses) for result in op.results):
            block.erase_op(op)


def epilogue_of(op: _Summing) -> Region:
    """A copy of the epilogue of a linear or a sum over ranks, or what an absent one stands for."""
    if op.epilogue is not None:
        return op.epilogue.clone()
    block = Block(arg_types=[f32])
    value: SSAValue = block.args[0]
    element_type = tensor.element_type_of(op.result)
    if element_type != f32:
        assert isinstance(element_type, AnyFloat)
        block.add_op(round_ := arith.TruncFOp(value, element_type))
        value = round_.result
    block.add_op(tensor.YieldOp(value))
    return Region(block)


class FoldElementwiseIntoEpilogue(RewritePattern):
    """linear -> elementwise of the same shape becomes a linear whose epilogue does both; so does
    all_reduce -> elementwise."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.ElementwiseOp, rewriter: PatternRewriter, /) -> None:
        if not _is_in_step(op):
            return
        for position, value in enumerate(op.inputs):
            linear = value.owner
            if not isinstance(linear, _Summing) or _only_user(value) is not op:
                continue
            if tensor.shape_of(value) == tensor.shape_of(op.result):
                rewriter.replace(op, self._fused(linear, op, position))
                rewriter.erase(linear)
                return

    @staticmethod
    def _fused(linear: _Summing, op: tensor.ElementwiseOp, position: int) -> Operation:
        region = epilogue_of(linear)
        block = region.block
        others = [v for i, v in enumerate(op.inputs) if i != position]
        last = block.last_op
        assert isinstance(last, tensor.YieldOp)
        accumulated = last.arguments[0]
        block.erase_op(last)
        arguments = [block.insert_arg(tensor.element_type_of(v), len(block.args)) for v in others]
        arguments.insert(position, accumulated)  # pyright: ignore[reportArgumentType]
        result = inline_scalars(op.body.block, arguments, block)
        block.add_op(tensor.YieldOp(result))
        drop_roundings(block)
        _drop_dead(block)
        element_type, others = tensor.element_type_of(op.result), [*linear.epilogue_args, *others]
        if isinstance(linear, tensor.AllReduceOp):
            fused = linear.like(linear.x, element_type, epilogue=region, epilogue_args=others)
        else:
            fused = linear.like(
                linear.x,
                element_type,
                prologue=None if linear.prologue is None else linear.prologue.clone(),
                prologue_args=linear.prologue_args,
                epilogue=region,
                epilogue_args=others,
            )
        fused.location = linear.location
        return fused


def _conversion_of(value: SSAValue) -> tensor.ElementwiseOp | None:
    """What only converts a value between float types, if nobody else reads the value."""
    user = _only_user(value)
    if not isinstance(user, tensor.ElementwiseOp) or form_of(user) != ("arg", 0):
        return None
    is_float = isinstance(tensor.element_type_of(user.result), AnyFloat)
    return user if len(user.inputs) == 1 and is_float else None


class FoldNormIntoPrologue(RewritePattern):
    """A norm read by linears only, rounded or not, is computed by each of them: they hold all of x
    anyway."""

    @op_type_rewrite_pattern
    def match_and_rewrite(
        self, op: tensor.RmsNormOp | tensor.LayerNormOp, rewriter: PatternRewriter, /
    ) -> None:
        if not _is_in_step(op):
            return
        rounding = _conversion_of(op.result)
        uses = tuple(op.result.uses if rounding is None else rounding.result.uses)
        linears = [
            use.operation
            for use in uses
            # The first operand only: a linear may also add to its result what it multiplies.
            if isinstance(use.operation, _PRODUCTS)
            and use.index == 0
            and use.operation.prologue is None
        ]
        if not uses or len(linears) != len(uses):
            return
        for linear in linears:
            fused = linear.like(
                op.x,
                tensor.element_type_of(linear.result),
                prologue=self._prologue(op),
                prologue_args=op.operands[1:],
                epilogue=None if linear.epilogue is None else linear.epilogue.clone(),
                epilogue_args=linear.epilogue_args,
            )
            fused.location = linear.location
            rewriter.replace(linear, fused)
        if rounding is not None:
            rewriter.erase(rounding)
        rewriter.erase(op)

    @staticmethod
    def _prologue(op: tensor.RmsNormOp | tensor.LayerNormOp) -> Region:
        block = Block(arg_types=[operand.type for operand in op.operands])
        norm = op.clone(dict(zip(op.operands, block.args, strict=True)))
        # The product takes the norm in fp32: rounding it first would only lose precision.
        Rewriter.replace_value_with_new_type(
            norm.result, TensorType(f32, tensor.shape_of(op.result))
        )
        block.add_ops([norm, tensor.YieldOp(norm.result)])
        return Region(block)


class FoldElementwiseIntoElementwise(RewritePattern):
    """A chain of elementwise ops of one shape becomes one op."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.ElementwiseOp, rewriter: PatternRewriter, /) -> None:
        if not _is_in_step(op):
            return
        for position, value in enumerate(op.inputs):
            first = value.owner
            if not isinstance(first, tensor.ElementwiseOp) or _only_user(value) is not op:
                continue
            if tensor.shape_of(value) == tensor.shape_of(op.result):
                rewriter.replace(op, self._fused(first, op, position))
                rewriter.erase(first)
                return

    @staticmethod
    def _fused(
        first: tensor.ElementwiseOp, second: tensor.ElementwiseOp, position: int
    ) -> tensor.ElementwiseOp:
        others = [v for i, v in enumerate(second.inputs) if i != position]
        inputs = [*first.inputs, *others]
        block = Block(arg_types=[tensor.element_type_of(v) for v in inputs])
        given = list(block.args)
        inner = inline_scalars(first.body.block, given[: len(first.inputs)], block)
        arguments: list[SSAValue] = list(given[len(first.inputs) :])
        arguments.insert(position, inner)
        block.add_op(tensor.YieldOp(inline_scalars(second.body.block, arguments, block)))
        drop_roundings(block)
        _drop_dead(block)
        fused = tensor.ElementwiseOp(inputs, block, second.result.type)
        fused.location = first.location
        return fused


class FoldSequenceReadIntoEmbedding(RewritePattern):
    """An embedding of the step's tokens looks them up in the sequence itself."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.EmbeddingOp, rewriter: PatternRewriter, /) -> None:
        read = op.ids.owner
        if op.position is not None or not isinstance(read, tensor.SequenceReadOp):
            return
        fused = tensor.EmbeddingOp(op.table, read.sequence, read.position)
        if fused.result.type != op.result.type:
            return
        fused.location = op.location
        rewriter.replace(op, fused)


@dataclass(frozen=True)
class FuseOperatorsPass(ModulePass):
    """Fold elementwise ops, norms and token reads into the operators that stream.

    `epilogues`, `prologues`, `pointwise` switch the three kinds off one by one.
    """

    name = "mpk-fuse-operators"

    epilogues: bool = True
    prologues: bool = True
    pointwise: bool = True

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        patterns: list[RewritePattern] = [FoldSequenceReadIntoEmbedding()]
        if self.epilogues:
            patterns.append(FoldElementwiseIntoEpilogue())
        if self.pointwise:
            patterns.append(FoldElementwiseIntoElementwise())
        if self.prologues:
            patterns.append(FoldNormIntoPrologue())
        PatternRewriteWalker(GreedyRewritePatternApplier(patterns, ctx=ctx)).rewrite_module(op)
        dce(op)
