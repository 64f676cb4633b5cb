"""ATen operators that make tensors of literals: arange, full, zeros, ones and their likes."""

from __future__ import annotations

from typing import Any

import torch
from xdsl.dialects.builtin import TensorType, i64
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


@register_lowering(aten.full.default, aten.full_like.default, aten.new_full.default)
def full(low: Lowering, *args: Any, **_: Any) -> SSAValue:
    value = args[-1]
    if isinstance(value, SSAValue):
        low.fail("fills with a value that is not a literal")
    return fill(low, value)


@register_lowering(aten.scalar_tensor.default)
def scalar_tensor(low: Lowering, value: float, **_: Any) -> SSAValue:
    return fill(low, value)


@register_lowering(
    aten.zeros.default,
    aten.zeros_like.default,
    aten.new_zeros.default,
    aten.empty.memory_format,
    aten.empty_like.default,
)
def zeros(low: Lowering, *_: Any, **__: Any) -> SSAValue:
    return fill(low, 0)


@register_lowering(aten.ones.default, aten.ones_like.default, aten.new_ones.default)
def ones(low: Lowering, *_: Any, **__: Any) -> SSAValue:
    return fill(low, 1)


__all__ = ["fill"]
