"""ATen's views and copies of views: reshape, transpose, slice, broadcast, concat, identities."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from xdsl.ir import SSAValue

from mpkir.dialects import tensor
from mpkir.dialects.tensor import shape_of
from mpkir.frontend.aten.registry import Lowering, Value, register_lowering

aten = torch.ops.aten


@register_lowering(
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.flatten.using_ints,
    aten.unflatten.int,
)
def reshape(low: Lowering, x: SSAValue, *_: Any, **__: Any) -> SSAValue:
    return low.reshape(x, low.shape)


@register_lowering(
    aten.clone.default,
    aten.alias.default,
    aten.detach.default,
    aten.detach_.default,
    aten.contiguous.default,
    aten.lift_fresh_copy.default,
)
def identity(low: Lowering, x: SSAValue, *_: Any, **__: Any) -> SSAValue:
    return x


@register_lowering(aten.dropout.default)
def dropout(low: Lowering, x: SSAValue, p: float, train: bool) -> SSAValue:
    if train and p > 0:
        low.fail("drops elements at random", "export the model in eval() mode")
    return x


@register_lowering(aten.native_dropout.default)
def native_dropout(low: Lowering, x: SSAValue, p: float, train: bool | None) -> Value:
    return (dropout(low, x, p, bool(train)),)


def _transpose(low: Lowering, x: SSAValue, permutation: Sequence[int]) -> SSAValue:
    if list(permutation) == list(range(len(permutation))):
        return x
    return low.emit(tensor.TransposeOp(x, permutation))


@register_lowering(aten.permute.default)
def permute(low: Lowering, x: SSAValue, dims: Sequence[int]) -> SSAValue:
    rank = len(shape_of(x))
    return _transpose(low, x, [d % rank for d in dims])


@register_lowering(aten.transpose.int)
def transpose(low: Lowering, x: SSAValue, dim0: int, dim1: int) -> SSAValue:
    order = list(range(len(shape_of(x))))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return _transpose(low, x, order)


@register_lowering(aten.t.default, aten.mT.default, aten.numpy_T.default)
def transpose_last(low: Lowering, x: SSAValue) -> SSAValue:
    if len(shape_of(x)) < 2:
        return x
    return transpose(low, x, -2, -1)


@register_lowering(aten.expand.default, aten.broadcast_to.default, aten.expand_as.default)
def expand(low: Lowering, x: SSAValue, *_: Any, **__: Any) -> SSAValue:
    if shape_of(x) == low.shape:
        return x
    return low.emit(tensor.BroadcastOp(x, low.shape))


def _slice(
    low: Lowering, x: SSAValue, dim: int, start: int, length: int, step: int = 1
) -> SSAValue:
    if start == 0 and step == 1 and length == shape_of(x)[dim]:
        return x
    return low.emit(tensor.SliceOp(x, dim, start, length, step))


@register_lowering(aten.slice.Tensor)
def slice_tensor(
    low: Lowering,
    x: SSAValue,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> SSAValue:
    dim %= len(shape_of(x))
    first = slice(start, end).indices(shape_of(x)[dim])[0]
    return _slice(low, x, dim, first, low.shape[dim], step)


@register_lowering(aten.narrow.default)
def narrow(low: Lowering, x: SSAValue, dim: int, start: int, length: int) -> SSAValue:
    dim %= len(shape_of(x))
    return _slice(low, x, dim, start % shape_of(x)[dim], length)


@register_lowering(aten.select.int)
def select(low: Lowering, x: SSAValue, dim: int, index: int) -> SSAValue:
    dim %= len(shape_of(x))
    return low.reshape(_slice(low, x, dim, index % shape_of(x)[dim], 1), low.shape)


def _pieces(low: Lowering, x: SSAValue, dim: int) -> Value:
    """Consecutive slices along `dim` with the sizes of the call's results."""
    start = 0
    pieces: list[SSAValue] = []
    for result in low.node.meta["val"]:
        length = int(result.shape[dim])
        pieces.append(_slice(low, x, dim, start, length))
        start += length
    return tuple(pieces)


@register_lowering(
    aten.split.Tensor,
    aten.split.sizes,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.tensor_split.sections,
)
def split(low: Lowering, x: SSAValue, _: Any, dim: int = 0) -> Value:
    return _pieces(low, x, dim % len(shape_of(x)))


@register_lowering(aten.unbind.int)
def unbind(low: Lowering, x: SSAValue, dim: int = 0) -> Value:
    dim %= len(shape_of(x))
    return tuple(low.reshape(_slice(low, x, dim, i, 1), low.shape) for i in range(shape_of(x)[dim]))


@register_lowering(operator.getitem)
def getitem(low: Lowering, values: tuple[SSAValue, ...], index: int) -> SSAValue:
    return values[index]


@register_lowering(aten.cat.default, aten.concat.default, aten.concatenate.default)
def cat(low: Lowering, tensors: Sequence[SSAValue], dim: int = 0) -> SSAValue:
    sources = [low.convert(t, low.element) for t in tensors if 0 not in shape_of(t)]
    if len(sources) == 1:
        return sources[0]
    return low.emit(tensor.ConcatOp(sources, dim % len(low.shape)))


@register_lowering(aten.stack.default)
def stack(low: Lowering, tensors: Sequence[SSAValue], dim: int = 0) -> SSAValue:
    dim %= len(low.shape)
    unit = [*low.shape[:dim], 1, *low.shape[dim + 1 :]]
    sources = [low.reshape(low.convert(t, low.element), unit) for t in tensors]
    return sources[0] if len(sources) == 1 else low.emit(tensor.ConcatOp(sources, dim))


@register_lowering(aten.repeat_interleave.self_int)
def repeat_interleave(
    low: Lowering, x: SSAValue, repeats: int, dim: int | None = None, output_size: int | None = None
) -> SSAValue:
    if dim is None:
        x, dim = low.reshape(x, [prod(shape_of(x))]), 0
    shape = list(shape_of(x))
    dim %= len(shape)
    unit = low.reshape(x, [*shape[: dim + 1], 1, *shape[dim + 1 :]])
    wide = low.emit(tensor.BroadcastOp(unit, [*shape[: dim + 1], repeats, *shape[dim + 1 :]]))
    return low.reshape(wide, low.shape)


@register_lowering(aten.repeat.default)
def repeat(low: Lowering, x: SSAValue, repeats: Sequence[int]) -> SSAValue:
    shape = [1] * (len(repeats) - len(shape_of(x))) + list(shape_of(x))
    apart = [size for pair in zip([1] * len(shape), shape, strict=True) for size in pair]
    wide = [size for pair in zip(repeats, shape, strict=True) for size in pair]
    x = low.reshape(x, apart)
    if wide != apart:
        x = low.emit(tensor.BroadcastOp(x, wide))
    return low.reshape(x, low.shape)
