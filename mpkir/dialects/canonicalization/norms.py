"""Canonical reductions: none along dimensions of size 1."""

from __future__ import annotations

from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from mpkir.dialects.canonicalization.replacing import replace_by
from mpkir.dialects.tensor.norms import ReduceOp
from mpkir.dialects.tensor.program import shape_of


class DropUnitReduction(RewritePattern):
    """Joining one element gives that element, whatever the kind of reduction."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ReduceOp, rewriter: PatternRewriter, /) -> None:
        shape, dims = shape_of(op.x), op.dims.get_values()
        joined = [d for d in dims if shape[d] != 1]
        if len(joined) == len(dims):
            return
        if joined:
            replace_by(op, ReduceOp(op.kind.data, op.x, joined), rewriter)
        elif op.x.type == op.result.type:
            rewriter.replace(op, (), (op.x,))


REDUCE = (DropUnitReduction(),)
