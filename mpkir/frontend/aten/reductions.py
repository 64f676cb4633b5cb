"""Reductions and norms along dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from xdsl.dialects.builtin import TensorType
from xdsl.ir import SSAValue

from mpkir.dialects import tensor
from mpkir.dialects.tensor import ReductionKind, element_type_of, shape_of
from mpkir.frontend.aten.registry import Lowering, Value, register_lowering
from mpkir.frontend.aten.scalars import number

aten = torch.ops.aten


def _reduce(
    low: Lowering, kind: ReductionKind, x: SSAValue, dims: Sequence[int] | None
) -> SSAValue:
    rank = len(shape_of(x))
    chosen = sorted({d % rank for d in dims}) if dims else list(range(rank))
    x = low.convert(x, low.element)
    if all(shape_of(x)[d] == 1 for d in chosen):
        return low.reshape(x, low.shape)
    return low.reshape(low.emit(tensor.ReduceOp(kind, x, chosen)), low.shape)


@register_lowering(aten.mean.dim)
def mean(
    low: Lowering, x: SSAValue, dim: Sequence[int] | None = None, *_: Any, **__: Any
) -> SSAValue:
    return _reduce(low, ReductionKind.MEAN, x, dim)


@register_lowering(aten.mean.default)
def mean_all(low: Lowering, x: SSAValue, **_: Any) -> SSAValue:
    return _reduce(low, ReductionKind.MEAN, x, None)


@register_lowering(aten.sum.dim_IntList)
def sum_dims(
    low: Lowering, x: SSAValue, dim: Sequence[int] | None = None, *_: Any, **__: Any
) -> SSAValue:
    return _reduce(low, ReductionKind.SUM, x, dim)


@register_lowering(aten.sum.default)
def sum_all(low: Lowering, x: SSAValue, **_: Any) -> SSAValue:
    return _reduce(low, ReductionKind.SUM, x, None)


@register_lowering(aten.amax.default)
def amax(low: Lowering, x: SSAValue, dim: Sequence[int] = (), keepdim: bool = False) -> SSAValue:
    return _reduce(low, ReductionKind.MAX, x, dim)


@register_lowering(aten.amin.default)
def amin(low: Lowering, x: SSAValue, dim: Sequence[int] = (), keepdim: bool = False) -> SSAValue:
    return _reduce(low, ReductionKind.MIN, x, dim)


@register_lowering(aten.max.default)
def max_all(low: Lowering, x: SSAValue) -> SSAValue:
    return _reduce(low, ReductionKind.MAX, x, None)


@register_lowering(aten.max.dim)
def max_dim(low: Lowering, x: SSAValue, dim: int, keepdim: bool = False) -> Value:
    if dim % len(shape_of(x)) != len(shape_of(x)) - 1:
        low.fail("takes the index of a maximum along another dimension than the last")
    index = low.reshape(low.emit(tensor.ArgmaxOp(x)), low.shape)
    return _reduce(low, ReductionKind.MAX, x, [dim]), index


@register_lowering(aten.argmax.default)
def argmax(low: Lowering, x: SSAValue, dim: int | None = None, keepdim: bool = False) -> SSAValue:
    if dim is None:
        x = low.reshape(x, (prod(shape_of(x)),))
    elif dim % len(shape_of(x)) != len(shape_of(x)) - 1:
        low.fail("is supported along the last dimension only")
    return low.reshape(low.emit(tensor.ArgmaxOp(x)), low.shape)


@register_lowering(aten.softmax.int, aten._softmax.default)
def softmax(low: Lowering, x: SSAValue, dim: int, *_: Any, **__: Any) -> SSAValue:
    rank = len(shape_of(x))
    dim %= rank
    if dim == rank - 1:
        return low.emit(tensor.SoftmaxOp(x, low.element))
    order = list(range(rank))
    order[dim], order[-1] = order[-1], order[dim]
    turned = low.emit(tensor.SoftmaxOp(low.emit(tensor.TransposeOp(x, order)), low.element))
    return low.emit(tensor.TransposeOp(turned, order))


def _last_dimension(low: Lowering, normalized_shape: Sequence[int]) -> None:
    if len(normalized_shape) != 1:
        low.fail(f"normalizes {len(normalized_shape)} dimensions; one is supported")


@register_lowering(aten.layer_norm.default)
def layer_norm(
    low: Lowering,
    x: SSAValue,
    normalized_shape: Sequence[int],
    weight: SSAValue | None = None,
    bias: SSAValue | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> SSAValue:
    _last_dimension(low, normalized_shape)
    element = element_type_of(x)
    type = TensorType(element, shape_of(x)[-1:])
    weight = weight or low.emit(tensor.FullOp(number(1, element), type))
    bias = bias or low.emit(tensor.FullOp(number(0, element), type))
    return low.emit(tensor.LayerNormOp(x, weight, bias, eps, low.element))


@register_lowering(aten.native_layer_norm.default)
def native_layer_norm(
    low: Lowering,
    x: SSAValue,
    normalized_shape: Sequence[int],
    weight: SSAValue | None,
    bias: SSAValue | None,
    eps: float,
) -> Value:
    return (layer_norm(low, x, normalized_shape, weight, bias, eps),)


@register_lowering(aten.rms_norm.default)
def rms_norm(
    low: Lowering,
    x: SSAValue,
    normalized_shape: Sequence[int],
    weight: SSAValue | None = None,
    eps: float | None = None,
) -> SSAValue:
    _last_dimension(low, normalized_shape)
    if eps is None:
        eps = torch.finfo(torch.float32).eps  # of the type that PyTorch computes in
    return low.emit(tensor.RmsNormOp(x, weight, eps, low.element))
