"""RMSNorm and LayerNorm from reductions and elementwise ops."""

from __future__ import annotations

import numpy as np
from xdsl.ir import SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from mpkir.dialects import tensor
from mpkir.dialects.tensor import ReductionKind, element_type_of, shape_of
from mpkir.passes.raising.scalar_forms import (
    binary,
    through_roundings,
    through_widenings,
    unary,
    with_constant,
)


def _mean(value: SSAValue) -> SSAValue | None:
    """x if the value is the mean of x along its last dimension."""
    op = through_roundings(value).owner
    if not isinstance(op, tensor.ReduceOp) or op.kind.data is not ReductionKind.MEAN:
        return None
    if op.dims.get_values() != (len(shape_of(op.x)) - 1,):
        return None
    return op.x


def _mean_of_squares(value: SSAValue) -> tuple[SSAValue, float] | None:
    """(x, eps) if the value is mean(x^2) + eps; eps is the shortest decimal of the f32 literal."""
    sum_ = with_constant(through_roundings(value), "arith.addf")
    if sum_ is None or (squares := _mean(sum_[0])) is None:
        return None
    factors = binary(through_roundings(squares), "arith.mulf")
    if factors is None or factors[0] is not factors[1]:
        return None
    return through_widenings(factors[0]), float(str(np.float32(sum_[1])))


def _normalized(value: SSAValue) -> tuple[SSAValue, float] | None:
    """(x, eps) if the value is x / sqrt(mean(x^2) + eps)."""
    sides: list[tuple[SSAValue, SSAValue | None]] = []
    if (product := binary(value, "arith.mulf")) is not None:
        a, b = product
        sides = [(x, unary(through_roundings(r), "math.rsqrt")) for x, r in ((a, b), (b, a))]
    elif (quotient := binary(value, "arith.divf")) is not None:
        x, root = quotient
        sides = [(x, unary(through_roundings(root), "math.sqrt"))]
    for x, radicand in sides:
        found = None if radicand is None else _mean_of_squares(radicand)
        if found is not None and found[0] is through_widenings(x):
            return found
    return None


class RaiseRmsNorm(RewritePattern):
    """`x * rsqrt(mean(x * x) + eps)` is an RMSNorm without weight."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.ElementwiseOp, rewriter: PatternRewriter, /) -> None:
        if (found := _normalized(op.result)) is None:
            return
        x, eps = found
        if shape_of(x) != shape_of(op.result):
            return
        norm = tensor.RmsNormOp(x, None, eps, element_type_of(op.result))
        norm.location = op.location
        rewriter.replace(op, norm)


class RaiseNormWeight(RewritePattern):
    """`weight * rms_norm(x)` is an RMSNorm with that weight."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.ElementwiseOp, rewriter: PatternRewriter, /) -> None:
        if (product := binary(op.result, "arith.mulf")) is None:
            return
        for scaled, weight in (product, product[::-1]):
            norm = through_roundings(scaled).owner
            if not isinstance(norm, tensor.RmsNormOp) or norm.weight is not None:
                continue
            if shape_of(weight) != shape_of(norm.x)[-1:]:
                continue
            eps = norm.eps.value.data
            new = tensor.RmsNormOp(norm.x, weight, eps, element_type_of(op.result))
            new.location = op.location
            rewriter.replace(op, new)
            return


class RaiseLayerNorm(RewritePattern):
    """`rms_norm(x - mean(x), weight) + bias` is a LayerNorm."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.ElementwiseOp, rewriter: PatternRewriter, /) -> None:
        if (terms := binary(op.result, "arith.addf")) is None:
            return
        for scaled, bias in (terms, terms[::-1]):
            norm = through_roundings(scaled).owner
            if not isinstance(norm, tensor.RmsNormOp) or norm.weight is None:
                continue
            centred = binary(through_roundings(norm.x), "arith.subf")
            if centred is None or shape_of(bias) != shape_of(norm.weight):
                continue
            x, mean = through_widenings(centred[0]), _mean(centred[1])
            if mean is None or through_widenings(mean) is not x:
                continue
            new = tensor.LayerNormOp(
                x, norm.weight, bias, norm.eps.value.data, element_type_of(op.result)
            )
            new.location = op.location
            rewriter.replace(op, new)
            return
