"""Kernels of norms, softmax and reductions; all accumulate in fp32."""

from __future__ import annotations

import numpy as np

from mpkir.backends.interpreter.kernels import Kernel, Scalars, builder
from mpkir.backends.interpreter.values import Array, rounding_to
from mpkir.dialects import tensor as t

_REDUCTIONS = {
    t.ReductionKind.SUM: np.sum,
    t.ReductionKind.MEAN: np.mean,
    t.ReductionKind.MAX: np.max,
    t.ReductionKind.MIN: np.min,
}


@builder(t.RmsNormOp)
def _rms_norm(op: t.RmsNormOp) -> Kernel:
    eps = np.float32(op.eps.value.data)
    to_type = rounding_to(t.element_type_of(op.result))

    def run(_: Scalars, x: Array, weight: Array | None = None) -> tuple[Array, ...]:
        y = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
        return (to_type(y if weight is None else y * weight),)

    return run


@builder(t.LayerNormOp)
def _layer_norm(op: t.LayerNormOp) -> Kernel:
    eps = np.float32(op.eps.value.data)
    to_type = rounding_to(t.element_type_of(op.result))

    def run(_: Scalars, x: Array, weight: Array, bias: Array) -> tuple[Array, ...]:
        centred = x - np.mean(x, axis=-1, keepdims=True)
        variance = np.mean(centred * centred, axis=-1, keepdims=True)
        return (to_type(centred / np.sqrt(variance + eps) * weight + bias),)

    return run


@builder(t.SoftmaxOp)
def _softmax(op: t.SoftmaxOp) -> Kernel:
    to_type = rounding_to(t.element_type_of(op.result))

    def run(_: Scalars, x: Array) -> tuple[Array, ...]:
        e = np.exp(x - np.max(x, axis=-1, keepdims=True))
        return (to_type(e / np.sum(e, axis=-1, keepdims=True)),)

    return run


@builder(t.ReduceOp)
def _reduce(op: t.ReduceOp) -> Kernel:
    function, dims = _REDUCTIONS[op.kind.data], tuple(op.dims.get_values())
    to_type = rounding_to(t.element_type_of(op.result))
    return lambda _, x: (to_type(function(x, axis=dims, keepdims=True)),)
