"""widen-activations: values that sums run through keep fp32 between operators.

A residual stream is added to by every layer; rounding it to bf16 each time is where most of a bf16
model's error comes from. At decode time it is a few kilobytes beside gigabytes of weights, so fp32
costs nothing, and results move towards the fp32 reference. Embeddings begin it in fp32 too, so that
the first layer is like all others. What leaves the program (outputs, states) keeps its type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xdsl.context import Context
from xdsl.dialects import arith
from xdsl.dialects.builtin import BFloat16Type, Float16Type, ModuleOp, TensorType, f32
from xdsl.ir import Block, BlockArgument, Operation
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from mpkir.dialects import tensor

_Product = tensor.LinearOp | tensor.ExpertLinearOp
_Summing = _Product | tensor.AllReduceOp
_Producer = _Summing | tensor.ElementwiseOp | tensor.EmbeddingOp


def _scalar_argument(user: Operation, operand: int) -> BlockArgument | None:
    """The scalar that stands for an operand in a pointwise region, if it is one."""
    if isinstance(user, tensor.ElementwiseOp):
        return user.body.block.args[operand]
    if isinstance(user, _Summing) and user.epilogue is not None:
        behind = len(user.operands) - operand
        if behind <= len(user.epilogue_args):
            return user.epilogue.block.args[-behind]
    return None


def _reads_any_float(user: Operation, operand: int) -> bool:
    """Whether an operator takes this operand in any floating-point type."""
    if _scalar_argument(user, operand) is not None:
        return True
    if isinstance(user, _Product):
        return operand == 0
    return isinstance(user, tensor.RmsNormOp | tensor.LayerNormOp | tensor.TopkOp) and operand == 0


def _is_summed(op: _Producer) -> bool:
    """Whether arithmetic or a choice reads the result, or the op itself reads what is wide."""
    if any(
        isinstance(use.operation, tensor.TopkOp)
        or _scalar_argument(use.operation, use.index) is not None
        for use in op.result.uses
    ):
        return True
    if isinstance(op, tensor.EmbeddingOp):
        return False
    operands = op.inputs if isinstance(op, tensor.ElementwiseOp) else op.epilogue_args
    return any(tensor.element_type_of(operand) == f32 for operand in operands)


def _may_widen(op: Operation) -> bool:
    if not isinstance(op, _Producer):
        return False
    element_type = tensor.element_type_of(op.result)
    return isinstance(element_type, BFloat16Type | Float16Type) and all(
        _reads_any_float(use.operation, use.index) for use in op.result.uses
    )


def _widen_yield(block: Block) -> None:
    """The region yields its value before the last rounding, or extends it."""
    last = block.last_op
    assert isinstance(last, tensor.YieldOp)
    value = last.arguments[0]
    if isinstance(value.owner, arith.TruncFOp) and value.owner.input.type == f32:
        wide = value.owner.input
    else:
        block.insert_op_before(extended := arith.ExtFOp(value, f32), last)
        wide = extended.result
    Rewriter.replace_op(last, tensor.YieldOp(wide))
    if isinstance(value.owner, arith.TruncFOp) and not tuple(value.uses):
        block.erase_op(value.owner)


def _widen_argument(argument: BlockArgument) -> None:
    """A region's argument becomes f32; extensions of it fall away, other uses see it rounded."""
    narrow = argument.type
    assert isinstance(narrow, BFloat16Type | Float16Type)
    block = argument.block
    extended = [
        use.operation
        for use in argument.uses
        if isinstance(use.operation, arith.ExtFOp) and use.operation.result.type == f32
    ]
    rounded = [use for use in argument.uses if use.operation not in extended]
    for op in extended:
        op.result.replace_all_uses_with(argument)
        block.erase_op(op)
    wide = Rewriter.replace_value_with_new_type(argument, f32)
    if rounded:
        first = block.first_op
        assert first is not None
        block.insert_op_before(round_ := arith.TruncFOp(wide, narrow), first)
        for use in rounded:
            use.operation.operands[use.index] = round_.result


def _widen(op: _Producer) -> None:
    region = None
    if not isinstance(op, tensor.EmbeddingOp):
        region = op.body if isinstance(op, tensor.ElementwiseOp) else op.epilogue
    if region is not None:
        _widen_yield(region.block)
    for use in tuple(op.result.uses):
        argument = _scalar_argument(use.operation, use.index)
        if argument is not None:
            _widen_argument(argument)
        elif isinstance(use.operation, _Product) and use.operation.prologue is not None:
            source = use.operation.prologue.block.args[0]
            Rewriter.replace_value_with_new_type(source, TensorType(f32, tensor.shape_of(source)))
    Rewriter.replace_value_with_new_type(op.result, TensorType(f32, tensor.shape_of(op.result)))


@dataclass(frozen=True)
class WidenActivationsPass(ModulePass):
    """Keep bf16 and f16 values in fp32 between operators.

    `scope`: `sums`, values that later arithmetic adds to (the residual stream) and those that a
    router ranks, where a rounding could change the choice; `all`, whatever every reader takes in
    fp32; `none`.
    """

    name = "mpk-widen-activations"

    scope: Literal["sums", "all", "none"] = "sums"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if self.scope == "none":
            return
        for inner in tuple(op.walk()):
            if not isinstance(inner, _Producer):
                continue
            if _may_widen(inner) and (self.scope == "all" or _is_summed(inner)):
                _widen(inner)
