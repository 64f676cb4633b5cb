"""Grouped-query attention over a cache, from PyTorch's sdpa or its eager form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from mpkir.dialects import tensor
from mpkir.dialects.tensor import element_type_of, shape_of
from mpkir.passes.raising.positions import Positions, causal_window
from mpkir.passes.raising.scalar_forms import binary, through_roundings, unary, with_constant


@dataclass(frozen=True)
class Scores:
    """softmax(scale * q k^T + mask) v, all head-major; the values may still repeat key heads."""

    q: SSAValue
    k: SSAValue
    v: SSAValue
    mask: SSAValue | None
    scale: float
    soft_cap: float | None
    element_type: Attribute


def _from_matmul(op: tensor.MatmulOp) -> Scores | None:
    """The eager form: two products around a softmax."""
    softmax = through_roundings(op.lhs).owner
    if not isinstance(softmax, tensor.SoftmaxOp):
        return None
    scores = through_roundings(softmax.x)
    sides: list[tuple[SSAValue, SSAValue | None]] = [(scores, None)]
    if (sum_ := binary(scores, "arith.addf")) is not None:
        sides = [sum_, (sum_[1], sum_[0])]
    for side, mask in sides:
        product, scale, cap = _scaled(side)
        if isinstance(product, tensor.MatmulOp):
            keys = product.rhs.owner
            if not isinstance(keys, tensor.TransposeOp):
                continue
            if keys.permutation.get_values() != (0, 1, 3, 2):
                continue
            return Scores(
                product.lhs, keys.source, op.rhs, mask, scale, cap, element_type_of(op.result)
            )
    return None


def _scaled(value: SSAValue) -> tuple[Operation | None, float, float | None]:
    """Peel soft cap and scale off the scores: (the op that computes them, scale, cap)."""
    cap: float | None = None
    value = through_roundings(value)
    if (capped := with_constant(value, "arith.mulf")) is not None:
        inner = unary(through_roundings(capped[0]), "math.tanh")
        if inner is not None:
            divided = with_constant(through_roundings(inner), "arith.divf")
            if divided is None or divided[1] != capped[1]:
                return None, 1.0, None
            cap, value = capped[1], through_roundings(divided[0])
    scale = 1.0
    if (product := with_constant(value, "arith.mulf")) is not None:
        value, scale = through_roundings(product[0]), product[1]
    elif (quotient := with_constant(value, "arith.divf")) is not None:
        value, scale = through_roundings(quotient[0]), 1 / quotient[1]
    owner = value.owner
    return (owner if isinstance(owner, Operation) else None), scale, cap


def _without_repeat(value: SSAValue, groups: int) -> SSAValue:
    """[B, KV, L, D] if the value repeats each of its heads for `groups` query heads."""
    joined = value.owner
    if not isinstance(joined, tensor.ReshapeOp):
        return value
    wide = joined.source.owner
    if not isinstance(wide, tensor.BroadcastOp):
        return value
    apart = wide.source.owner
    if not isinstance(apart, tensor.ReshapeOp):
        return value
    source = apart.source
    batch, heads, length, size = (*shape_of(source), 0, 0, 0, 0)[:4]
    if len(shape_of(source)) != 4 or shape_of(wide.source) != (batch, heads, 1, length, size):
        return value
    repeated = shape_of(wide.result)
    if len(repeated) != 5 or repeated != (batch, heads, repeated[2], length, size):
        return value
    if shape_of(value) != (batch, heads * repeated[2], length, size) or groups % repeated[2]:
        return value
    return source


def _append(value: SSAValue, positions: Positions) -> tensor.CacheAppendOp | None:
    op = value.owner
    if not isinstance(op, tensor.CacheAppendOp) or not positions.is_position(op.position):
        return None
    return op


@dataclass(frozen=True)
class RaiseAttention(RewritePattern):
    """Attention whose keys and values are a cache with the step's rows appended, causally masked.

    The mask's subgraph is proven to be `row <= position` (and a window), then dropped.
    """

    positions: Positions

    @op_type_rewrite_pattern
    def match_and_rewrite(
        self, op: tensor.SdpaOp | tensor.MatmulOp, rewriter: PatternRewriter, /
    ) -> None:
        if isinstance(op, tensor.MatmulOp):
            scores = _from_matmul(op)
        elif op.causal is None:
            element = element_type_of(op.result)
            scores = Scores(op.q, op.k, op.v, op.mask, op.scale.value.data, None, element)
        else:
            scores = None
        if scores is None or len(shape_of(scores.q)) != 4:
            return
        heads = shape_of(scores.q)[1]
        scores = replace(
            scores, k=_without_repeat(scores.k, heads), v=_without_repeat(scores.v, heads)
        )
        keys, values = _append(scores.k, self.positions), _append(scores.v, self.positions)
        if keys is not None and values is not None and keys is not values:
            self.rewrite(op, scores, keys, values, rewriter)

    def rewrite(
        self,
        op: Operation,
        scores: Scores,
        keys: tensor.CacheAppendOp,
        values: tensor.CacheAppendOp,
        rewriter: PatternRewriter,
    ) -> None:
        tokens = shape_of(keys.new)[2]
        batch, heads, rows, size = shape_of(scores.q)
        if shape_of(keys.cache) != shape_of(values.cache) or scores.mask is None:
            return
        kv, capacity = shape_of(keys.cache)[1:3]
        # One token: further rows of q are more heads of the same key head, if the mask has none.
        if (rows != tokens and tokens != 1) or heads % kv:
            return
        mask_shape = shape_of(scores.mask)
        if len(mask_shape) < 2 or mask_shape[-2:] != (tokens, capacity):
            return
        causal, window = causal_window(self.positions.of(scores.mask), tokens, capacity)
        if not causal or not _used_after(op, keys, values):
            return
        ops: list[Operation] = [position := tensor.PositionOp(tokens)]
        if tokens == 1:
            ops.append(q := tensor.ReshapeOp(scores.q, [batch, 1, heads * rows, size]))
        else:
            ops.append(q := tensor.TransposeOp(scores.q, [0, 2, 1, 3]))
        ops.append(k := tensor.TransposeOp(keys.new, [0, 2, 1, 3]))
        ops.append(v := tensor.TransposeOp(values.new, [0, 2, 1, 3]))
        attention = tensor.AttentionOp(
            q.result,
            k.result,
            v.result,
            keys.cache,
            values.cache,
            position.result,
            scores.scale,
            window=window,
            soft_cap=scores.soft_cap,
            element_type=scores.element_type,
        )
        ops.append(attention)
        if tokens == 1:
            ops.append(tensor.ReshapeOp(attention.result, [batch, heads, rows, size]))
        else:
            ops.append(tensor.TransposeOp(attention.result, [0, 2, 1, 3]))
        for new in ops:
            new.location = op.location
        rewriter.replace(op, ops)
        rewriter.replace_all_uses_with(keys.result, attention.k_result)
        rewriter.replace_all_uses_with(values.result, attention.v_result)


def _readers(value: SSAValue) -> Iterator[Operation]:
    """The ops that read a value, itself or through views."""
    for use in value.uses:
        user = use.operation
        if isinstance(user, tensor.ReshapeOp | tensor.BroadcastOp | tensor.TransposeOp):
            yield from _readers(user.results[0])
        else:
            yield user


def _used_after(op: Operation, *appends: tensor.CacheAppendOp) -> bool:
    """Whether whatever reads the appended caches, but for `op` and its scores, comes after it."""
    for append in appends:
        for reader in _readers(append.result):
            feeds = isinstance(reader, tensor.MatmulOp) and isinstance(op, tensor.MatmulOp)
            # Asked from the reader, a store at the block's end, where there is little to walk.
            if reader is not op and not feeds and reader.is_before_in_block(op):
                return False
    return True
