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
from mpkir.dialects.canonicalization.pointwise import DropIdentity
from mpkir.dialects.canonicalization.views import (
    DropIdentityView,
    FlattenConcat,
    MergeReshapes,
    MergeTransposes,
    TransposeOfUnitDims,
)


class DropWidenedThenNarrowed(RewritePattern):
    """An operator that only widens and one that only narrows it again are the first one's operand.

    `canonicalize` does so within one region; between operators it is a matter of fusion, which
    only comes after raising.
    """

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.ElementwiseOp, rewriter: PatternRewriter, /) -> None:
        if not _only(op, arith.TruncFOp):
            return
        wide = op.inputs[0].owner
        if not isinstance(wide, tensor.ElementwiseOp) or not _only(wide, arith.ExtFOp):
            return
        if wide.inputs[0].type == op.result.type:
            rewriter.replace(op, (), (wide.inputs[0],))


def _only(op: tensor.ElementwiseOp, kind: type[arith.ExtFOp | arith.TruncFOp]) -> bool:
    """Whether the region is one conversion of its only argument."""
    ops = tuple(op.body.block.ops)
    return (
        len(op.inputs) == 1
        and len(ops) == 2
        and isinstance(ops[0], kind)
        and ops[1].operands[0] is ops[0].results[0]
    )


@dataclass(frozen=True)
class CanonicalizeViewsPass(ModulePass):
    """Join chains of views, drop those that change nothing, and turn transposes into reshapes.

    Of the dialect's canonicalization these are the patterns that raising relies on.
    """

    name = "mpk-canonicalize-views"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        patterns: list[RewritePattern] = [
            MergeTransposes(),
            TransposeOfUnitDims(),
            MergeReshapes(),
            DropIdentityView(),
            FlattenConcat(),
            DropIdentity(),
            DropWidenedThenNarrowed(),
        ]
        PatternRewriteWalker(GreedyRewritePatternApplier(patterns)).rewrite_module(op)
