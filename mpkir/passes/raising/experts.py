"""Mixtures of experts: products with gathered weights, their halves, their weighted sum."""

from __future__ import annotations

from math import prod

from xdsl.dialects.builtin import TensorType
from xdsl.ir import SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from mpkir.dialects import tensor
from mpkir.dialects.tensor import ReductionKind, element_type_of, shape_of
from mpkir.passes.raising.scalar_forms import binary
from mpkir.passes.raising.views import through_reshapes, through_reshapes_and_roundings


def _gathered(value: SSAValue) -> tuple[SSAValue, SSAValue] | None:
    """(stack, indices) if the value is stack[indices] of a stack [E, N, K] of matrices."""
    lookup = through_reshapes(value).owner
    if not isinstance(lookup, tensor.EmbeddingOp) or lookup.position is not None:
        return None
    stack = through_reshapes(lookup.table)
    shape, (experts, _) = shape_of(stack), shape_of(lookup.table)
    if len(shape) != 3 or shape[0] != experts or shape_of(value)[1:] != shape[1:]:
        return None
    return stack, lookup.ids


def _repeated_rows(value: SSAValue, slots: int) -> SSAValue:
    """x [.., K] where row s of the value is row s div (slots / R) of x's R rows."""
    source = through_reshapes(value)
    depth = shape_of(value)[-1]
    if isinstance(wide := source.owner, tensor.BroadcastOp):
        to = shape_of(source)
        narrow = (1,) * (len(to) - len(shape_of(wide.source))) + shape_of(wide.source)
        same = next((d for d in range(len(to)) if narrow[d] != to[d]), len(to))
        if narrow[-1] == to[-1] == depth and prod(narrow[same:-1]) == 1:
            source = through_reshapes(wide.source)
    if shape_of(source)[-1:] != (depth,) or slots % prod(shape_of(source)[:-1]):
        return value
    return source


class RaiseExpertLinear(RewritePattern):
    """`stack[indices] @ x[:, :, None]` is a linear with the weights that the indices choose."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.MatmulOp, rewriter: PatternRewriter, /) -> None:
        if len(shape_of(op.lhs)) != 3 or shape_of(op.rhs)[-1] != 1:
            return
        if (found := _gathered(op.lhs)) is None:
            return
        stack, ids = found
        slots, features, depth = shape_of(op.lhs)
        if shape_of(op.rhs) != (slots, depth, 1):
            return
        experts = tensor.ReshapeOp(ids, (slots,))
        rows = tensor.ReshapeOp(op.rhs, (slots, depth))
        x = _repeated_rows(rows.result, slots)
        type = TensorType(element_type_of(op.result), (slots, features))
        linear = tensor.ExpertLinearOp(x, [stack], [0], experts.result, type)
        linear.location = op.location
        back = tensor.ReshapeOp(linear.result, shape_of(op.result))
        rewriter.replace(op, [experts, rows, linear, back])


class RaiseSliceOfExpertLinear(RewritePattern):
    """Consecutive features of an expert linear are one of fewer rows of its weight."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.SliceOp, rewriter: PatternRewriter, /) -> None:
        linear = through_reshapes(op.source).owner
        if not isinstance(linear, tensor.ExpertLinearOp) or linear.epilogue is not None:
            return
        if shape_of(op.source) != shape_of(linear.result) or linear.prologue is not None:
            return
        if op.dim.value.data != len(shape_of(op.source)) - 1 or op.step.value.data != 1:
            return
        first = linear.firsts[0] + op.start.value.data
        rows = tensor.ExpertLinearOp(
            linear.x,
            linear.weights,
            [first],
            linear.experts,
            op.result.type,
            scales=linear.scales,
        )
        rows.location = linear.location
        rewriter.replace(op, rows)


class RaiseWeightedSum(RewritePattern):
    """The sum over slots of what experts give, each times its weight, is made by the product."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.ReduceOp, rewriter: PatternRewriter, /) -> None:
        *lead, slots, features = shape_of(op.x) if len(shape_of(op.x)) > 1 else (0, 0)
        if op.kind.data is not ReductionKind.SUM or op.dims.get_values() != (len(lead),):
            return
        product = through_reshapes_and_roundings(op.x)
        if (factors := binary(product, "arith.mulf")) is None:
            return
        for scaled, scales in (factors, factors[::-1]):
            linear = through_reshapes_and_roundings(scaled).owner
            if not isinstance(linear, tensor.ExpertLinearOp) or linear.scales is not None:
                continue
            if linear.epilogue is not None or not linear.result.has_one_use():
                continue
            many = linear.slots
            if shape_of(scaled) != (many, features) or shape_of(scales) != (many, 1):
                continue
            if many != prod(lead) * slots or prod(shape_of(linear.x)[:-1]) != many:
                continue
            weights = tensor.ReshapeOp(through_reshapes_and_roundings(scales), (many,))
            new = tensor.ExpertLinearOp(
                linear.x,
                linear.weights,
                linear.firsts,
                linear.experts,
                op.result.type,
                scales=weights.result,
            )
            new.location = linear.location
            rewriter.replace(op, [weights, new])
            return
