"""canonicalize-views: fewest views, and reshapes rather than transposes where nothing moves."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import arith
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import (
    GreedyRewritePatternApplier,
    PatternRewriter,
    PatternRewriteWalker,
    RewritePattern,
    op_type_rewrite_pattern,
)

from mpkir.dialects import tensor
from mpkir.dialects.tensor import shape_of


class TransposeOfTranspose(RewritePattern):
    """Two transposes are one."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.TransposeOp, rewriter: PatternRewriter, /) -> None:
        inner = op.source.owner
        if isinstance(inner, tensor.TransposeOp):
            first = inner.permutation.get_values()
            order = [first[p] for p in op.permutation.get_values()]
            new = tensor.TransposeOp(inner.source, order)
            new.location = op.location
            rewriter.replace(op, new)


class TransposeOfUnits(RewritePattern):
    """A transpose that moves only dimensions of size 1 is a reshape."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.TransposeOp, rewriter: PatternRewriter, /) -> None:
        shape = shape_of(op.source)
        moved = [p for p in op.permutation.get_values() if shape[p] != 1]
        if moved == sorted(moved):
            new = tensor.ReshapeOp(op.source, shape_of(op.result))
            new.location = op.location
            rewriter.replace(op, new)


class ReshapeOfReshape(RewritePattern):
    """Only the last of several reshapes counts."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.ReshapeOp, rewriter: PatternRewriter, /) -> None:
        inner = op.source.owner
        if isinstance(inner, tensor.ReshapeOp):
            new = tensor.ReshapeOp(inner.source, shape_of(op.result))
            new.location = op.location
            rewriter.replace(op, new)


class DropIdentityView(RewritePattern):
    """A view that changes neither shape nor order is its source."""

    @op_type_rewrite_pattern
    def match_and_rewrite(
        self,
        op: tensor.ReshapeOp | tensor.BroadcastOp | tensor.SliceOp | tensor.TransposeOp,
        rewriter: PatternRewriter,
        /,
    ) -> None:
        if shape_of(op.source) != shape_of(op.result):
            return
        if isinstance(op, tensor.TransposeOp):
            order = op.permutation.get_values()
            if list(order) != sorted(order):
                return
        rewriter.replace(op, [], [op.source])


class DropIdentityConcat(RewritePattern):
    """A concat of one source is that source."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.ConcatOp, rewriter: PatternRewriter, /) -> None:
        if len(op.sources) == 1:
            rewriter.replace(op, [], [op.sources[0]])


class DropIdentityElementwise(RewritePattern):
    """An elementwise op that yields its argument is its operand; so is widening and narrowing."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.ElementwiseOp, rewriter: PatternRewriter, /) -> None:
        if len(op.inputs) != 1:
            return
        last = op.body.block.last_op
        assert isinstance(last, tensor.YieldOp)
        source = op.inputs[0]
        if last.arguments[0] is op.body.block.args[0] and source.type == op.result.type:
            rewriter.replace(op, [], [source])
            return
        wide = source.owner
        if not isinstance(wide, tensor.ElementwiseOp) or len(wide.inputs) != 1:
            return
        if _only(wide, arith.ExtFOp) and _only(op, arith.TruncFOp):
            if wide.inputs[0].type == op.result.type:
                rewriter.replace(op, [], [wide.inputs[0]])


def _only(op: tensor.ElementwiseOp, kind: type[arith.ExtFOp | arith.TruncFOp]) -> bool:
    """Whether the region is one conversion of its argument."""
    ops = tuple(op.body.block.ops)
    return len(ops) == 2 and isinstance(ops[0], kind) and ops[1].operands[0] is ops[0].results[0]


PATTERNS: tuple[type[RewritePattern], ...] = (
    TransposeOfTranspose,
    TransposeOfUnits,
    ReshapeOfReshape,
    DropIdentityView,
    DropIdentityConcat,
    DropIdentityElementwise,
)


@dataclass(frozen=True)
class CanonicalizeViewsPass(ModulePass):
    """Join chains of views, drop those that change nothing, and turn transposes into reshapes."""

    name = "mpk-canonicalize-views"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        patterns: list[RewritePattern] = [pattern() for pattern in PATTERNS]
        PatternRewriteWalker(GreedyRewritePatternApplier(patterns)).rewrite_module(op)
