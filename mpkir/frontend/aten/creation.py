"""ATen operators that make tensors of literals: arange, full, zeros, ones and their likes."""

from __future__ import annotations

from typing import Any

import torch
from xdsl.dialects.builtin import FloatAttr, IntegerAttr, TensorType, i1, i64
from xdsl.ir import SSAValue

from mpkir.dialects import tensor
from mpkir.frontend.aten.registry import Lowering, register_lowering
from mpkir.frontend.aten.scalars import number

aten = torch.ops.aten


def _iota(low: Lowering, start: float, step: float) -> SSAValue:
    if start != int(start) or step != int(step):
        low.fail("has a start or step that is no integer")
    if low.element == i64:
        return low.emit(tensor.IotaOp(low.type, int(start), int(step)))
    count = low.emit(tensor.IotaOp(TensorType(i64, low.shape), int(start), int(step)))
    return low.convert(count, low.element)


@register_lowering(aten.arange.default)
def arange(low: Lowering, end: float, **_: Any) -> SSAValue:
    return _iota(low, 0, 1)


@register_lowering(aten.arange.start)
def arange_start(low: Lowering, start: float, end: float, **_: Any) -> SSAValue:
    return _iota(low, start, 1)


@register_lowering(aten.arange.start_step)
def arange_step(low: Lowering, start: float, end: float, step: float = 1, **_: Any) -> SSAValue:
    return _iota(low, start, step)


def fill(low: Lowering, value: float) -> SSAValue:
    """A tensor of the call's type with one value everywhere."""
    return low.emit(tensor.FullOp(number(value, low.element), low.type))


def uniform(value: SSAValue) -> float | None:
    """The number that a tensor has everywhere, if it is a literal's."""
    op = value.owner
    match op:
        case tensor.FullOp(value=FloatAttr() | IntegerAttr() as literal):
            known = literal.value.data
            return bool(known) if literal.type == i1 else known
        case tensor.ReshapeOp() | tensor.BroadcastOp() | tensor.SliceOp() | tensor.TransposeOp():
            return uniform(op.source)
        case _:
            return None


@register_lowering(aten.full.default, aten.full_like.default, aten.new_full.default)
def full(low: Lowering, *args: Any, **_: Any) -> SSAValue:
    value = args[-1]
    if isinstance(value, SSAValue):
        low.fail("fills with a value that is not a literal")
    return fill(low, value)


@register_lowering(aten.cumsum.default)
def cumsum(low: Lowering, x: SSAValue, dim: int, **_: Any) -> SSAValue:
    number = uniform(x)
    if number is None:
        low.fail("adds up something else than the same number again and again")
    dim %= len(low.shape)
    sums = low.emit(tensor.IotaOp(TensorType(i64, [low.shape[dim]]), 1, 1))
    unit = [size if d == dim else 1 for d, size in enumerate(low.shape)]
    sums = low.reshape(sums, unit)
    if tensor.shape_of(sums) != low.shape:
        sums = low.emit(tensor.BroadcastOp(sums, low.shape))
    return low.pointwise([sums, number], lambda s, a, b: s.mul(a, b))


@register_lowering(aten.scalar_tensor.default)
def scalar_tensor(low: Lowering, value: float, **_: Any) -> SSAValue:
    return fill(low, value)


@register_lowering(
    aten.zeros.default,
    aten.zeros_like.default,
    aten.new_zeros.default,
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.new_empty.default,
)
def zeros(low: Lowering, *_: Any, **__: Any) -> SSAValue:
    return fill(low, 0)


@register_lowering(aten.ones.default, aten.ones_like.default, aten.new_ones.default)
def ones(low: Lowering, *_: Any, **__: Any) -> SSAValue:
    return fill(low, 1)


__all__ = ["fill", "uniform"]
