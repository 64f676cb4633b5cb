"""Canonical views: none that does nothing, no chain of two of a kind, reshapes where they suffice.

A reshape or slice of a weight stays: whether a view is read through is the consumer's business.
"""

from __future__ import annotations

from math import prod

from xdsl.ir import SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from mpkir.dialects.canonicalization.replacing import replace_by
from mpkir.dialects.tensor.program import FullOp, IotaOp, shape_of
from mpkir.dialects.tensor.views import (
    BroadcastOp,
    ConcatOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
)


class DropIdentityView(RewritePattern):
    """A view that gives its source unchanged is its source."""

    @op_type_rewrite_pattern
    def match_and_rewrite(
        self, op: ReshapeOp | TransposeOp | SliceOp | BroadcastOp, rewriter: PatternRewriter, /
    ) -> None:
        if op.source.type != op.result.type:
            return
        if isinstance(op, TransposeOp):
            permutation = op.permutation.get_values()
            if list(permutation) != sorted(permutation):
                return
        rewriter.replace(op, (), (op.source,))


class ViewOfFull(RewritePattern):
    """A view of one value everywhere is that value everywhere."""

    @op_type_rewrite_pattern
    def match_and_rewrite(
        self, op: ReshapeOp | TransposeOp | SliceOp | BroadcastOp, rewriter: PatternRewriter, /
    ) -> None:
        if isinstance(full := op.source.owner, FullOp):
            replace_by(op, FullOp(full.value, op.result.type), rewriter)


class MergeReshapes(RewritePattern):
    """The last of two reshapes alone counts."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ReshapeOp, rewriter: PatternRewriter, /) -> None:
        if isinstance(first := op.source.owner, ReshapeOp):
            replace_by(op, ReshapeOp(first.source, shape_of(op.result)), rewriter)


class MergeTransposes(RewritePattern):
    """Two transposes permute once."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: TransposeOp, rewriter: PatternRewriter, /) -> None:
        if not isinstance(first := op.source.owner, TransposeOp):
            return
        inner = first.permutation.get_values()
        permutation = [inner[p] for p in op.permutation.get_values()]
        replace_by(op, TransposeOp(first.source, permutation), rewriter)


class TransposeOfUnitDims(RewritePattern):
    """A transpose that moves only dimensions of size 1 is a reshape: no element changes its
    place."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: TransposeOp, rewriter: PatternRewriter, /) -> None:
        shape = shape_of(op.source)
        moved = [p for p in op.permutation.get_values() if shape[p] != 1]
        if moved == sorted(moved):
            replace_by(op, ReshapeOp(op.source, shape_of(op.result)), rewriter)


class MergeSlices(RewritePattern):
    """Two slices along one dimension are one."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: SliceOp, rewriter: PatternRewriter, /) -> None:
        first = op.source.owner
        if not isinstance(first, SliceOp) or first.dim != op.dim:
            return
        dim = op.dim.value.data
        step = first.step.value.data
        replace_by(
            op,
            SliceOp(
                first.source,
                dim,
                first.start.value.data + op.start.value.data * step,
                shape_of(op.result)[dim],
                step * op.step.value.data,
            ),
            rewriter,
        )


class SliceOfConcat(RewritePattern):
    """A slice that lies in one source of a concat is a slice of that source."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: SliceOp, rewriter: PatternRewriter, /) -> None:
        concat = op.source.owner
        if not isinstance(concat, ConcatOp) or concat.dim != op.dim:
            return
        dim, start, step = op.dim.value.data, op.start.value.data, op.step.value.data
        length = shape_of(op.result)[dim]
        last = start + (length - 1) * step
        for source in concat.sources:
            size = shape_of(source)[dim]
            if 0 <= start and last < size:
                replace_by(op, SliceOp(source, dim, start, length, step), rewriter)
                return
            start, last = start - size, last - size


class SliceOfIota(RewritePattern):
    """A slice of an arithmetic sequence is one."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: SliceOp, rewriter: PatternRewriter, /) -> None:
        if not isinstance(iota := op.source.owner, IotaOp):
            return
        step = iota.step.value.data
        start = iota.start.value.data + op.start.value.data * step
        replace_by(op, IotaOp(op.result.type, start, step * op.step.value.data), rewriter)


class MergeBroadcasts(RewritePattern):
    """Two broadcasts are one."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: BroadcastOp, rewriter: PatternRewriter, /) -> None:
        if isinstance(first := op.source.owner, BroadcastOp):
            replace_by(op, BroadcastOp(first.source, shape_of(op.result)), rewriter)


class BroadcastOfUnitDims(RewritePattern):
    """A broadcast that repeats nothing only adds dimensions of size 1: a reshape."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: BroadcastOp, rewriter: PatternRewriter, /) -> None:
        if prod(shape_of(op.source)) == prod(shape_of(op.result)):
            replace_by(op, ReshapeOp(op.source, shape_of(op.result)), rewriter)


class FlattenConcat(RewritePattern):
    """A concat of one source is that source; concats along one dimension are one."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ConcatOp, rewriter: PatternRewriter, /) -> None:
        sources: list[SSAValue] = []
        for source in op.sources:
            inner = source.owner
            if isinstance(inner, ConcatOp) and inner.dim == op.dim:
                sources.extend(inner.sources)
            else:
                sources.append(source)
        if len(sources) == 1:
            rewriter.replace(op, (), (sources[0],))
        elif len(sources) != len(op.sources):
            replace_by(op, ConcatOp(sources, op.dim.value.data), rewriter)


RESHAPE = (DropIdentityView(), ViewOfFull(), MergeReshapes())
TRANSPOSE = (DropIdentityView(), ViewOfFull(), MergeTransposes(), TransposeOfUnitDims())
SLICE = (DropIdentityView(), ViewOfFull(), MergeSlices(), SliceOfConcat(), SliceOfIota())
BROADCAST = (DropIdentityView(), ViewOfFull(), MergeBroadcasts(), BroadcastOfUnitDims())
CONCAT = (FlattenConcat(),)
