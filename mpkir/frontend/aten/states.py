"""Updates of a part of a tensor: how a model writes to its cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from xdsl.ir import SSAValue

from mpkir.dialects import tensor
from mpkir.dialects.tensor import shape_of
from mpkir.frontend.aten.registry import Lowering, register_lowering

aten = torch.ops.aten
_HINT = "write a cache [batch, heads, capacity, head_dim] with cache.index_copy_(2, position, rows)"


@register_lowering(aten.index_copy.default)
def index_copy(
    low: Lowering, cache: SSAValue, dim: int, index: SSAValue, source: SSAValue
) -> SSAValue:
    if len(shape_of(cache)) != 4 or dim % 4 != 2 or len(shape_of(index)) != 1:
        low.fail("writes along another dimension than the third of four", _HINT)
    return low.emit(tensor.CacheAppendOp(cache, low.convert(source, low.element), index))


@register_lowering(aten.index_put.default)
def index_put(
    low: Lowering,
    cache: SSAValue,
    indices: Sequence[SSAValue | None],
    values: SSAValue,
    accumulate: bool = False,
) -> SSAValue:
    index = indices[-1]
    if accumulate or len(indices) != 3 or index is None or indices[0] or indices[1]:
        low.fail("writes along another dimension than the third of four", _HINT)
    source = low.convert(values, low.element)
    shape = (*shape_of(cache)[:2], *shape_of(index), shape_of(cache)[3])
    if shape_of(source) != shape:
        source = low.emit(tensor.BroadcastOp(source, shape))
    return index_copy(low, cache, 2, index, source)


@register_lowering(aten.slice_scatter.default)
def slice_scatter(
    low: Lowering,
    x: SSAValue,
    source: SSAValue,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> SSAValue:
    if step != 1:
        low.fail("writes with a step", _HINT)
    shape = shape_of(x)
    dim %= len(shape)
    first, last, _ = slice(start, end).indices(shape[dim])
    pieces = [low.convert(source, low.element)]
    if first > 0:
        pieces.insert(0, low.emit(tensor.SliceOp(x, dim, 0, first)))
    if last < shape[dim]:
        pieces.append(low.emit(tensor.SliceOp(x, dim, last, shape[dim] - last)))
    return pieces[0] if len(pieces) == 1 else low.emit(tensor.ConcatOp(pieces, dim))


@register_lowering(aten.select_scatter.default)
def select_scatter(low: Lowering, x: SSAValue, source: SSAValue, dim: int, index: int) -> SSAValue:
    shape = list(shape_of(x))
    dim %= len(shape)
    index %= shape[dim]
    unit = low.reshape(source, [*shape[:dim], 1, *shape[dim + 1 :]])
    return slice_scatter(low, x, unit, dim, index, index + 1)
