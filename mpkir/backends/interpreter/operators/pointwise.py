"""Kernels of elementwise operators and of tensors that are made from nothing."""

from __future__ import annotations

import numpy as np
from xdsl.dialects.builtin import FloatAttr, IntegerAttr

from mpkir.backends.interpreter.kernels import Kernel, Scalars, block_kernel, builder
from mpkir.backends.interpreter.values import Array, carrier_dtype, rounding_to
from mpkir.dialects import task
from mpkir.dialects import tensor as t
from mpkir.errors import MpkirError


@builder(t.ElementwiseOp)
def _elementwise(op: t.ElementwiseOp) -> Kernel:
    body = block_kernel(op.body.block)
    shape = t.shape_of(op.result)

    def run(scalars: Scalars, *inputs: Array) -> tuple[Array, ...]:
        (value,) = body(scalars, inputs)
        return (np.broadcast_to(value, shape),)

    return run


@builder(t.IotaOp)
def _iota(op: t.IotaOp) -> Kernel:
    (length,) = t.shape_of(op.result)
    values = op.start.value.data + np.arange(length) * op.step.value.data
    array = values.astype(carrier_dtype(t.element_type_of(op.result)))
    return lambda _: (array,)


@builder(t.FullOp)
def _full(op: t.FullOp) -> Kernel:
    if not isinstance(op.value, (FloatAttr, IntegerAttr)):
        raise MpkirError(f"mpk_tensor.full of {op.value}, which is no number")
    element_type = t.element_type_of(op.result)
    scalar = np.asarray(op.value.value.data).astype(carrier_dtype(element_type))
    array = np.broadcast_to(rounding_to(element_type)(scalar), t.shape_of(op.result))
    return lambda _: (array,)


@builder(t.PositionOp)
def _position(op: t.PositionOp) -> Kernel:
    tokens = np.arange(t.shape_of(op.result)[0])
    return lambda scalars: (scalars.position + tokens,)


@builder(task.IndexOp)
def _index(op: task.IndexOp) -> Kernel:
    dim = op.dim.value.data
    return lambda scalars: (np.array([scalars.coordinates[dim]]),)
