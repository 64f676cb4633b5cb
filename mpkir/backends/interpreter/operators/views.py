"""Kernels of views."""

from __future__ import annotations

import numpy as np

from mpkir.backends.interpreter.kernels import Kernel, builder
from mpkir.dialects import tensor as t


@builder(t.ReshapeOp)
def _reshape(op: t.ReshapeOp) -> Kernel:
    shape = t.shape_of(op.result)
    return lambda _, x: (x.reshape(shape),)


@builder(t.TransposeOp)
def _transpose(op: t.TransposeOp) -> Kernel:
    permutation = tuple(op.permutation.get_values())
    return lambda _, x: (x.transpose(permutation),)


@builder(t.SliceOp)
def _slice(op: t.SliceOp) -> Kernel:
    dim, start, step = op.dim.value.data, op.start.value.data, op.step.value.data
    stop = start + (t.shape_of(op.result)[dim] - 1) * step + 1
    index = (*[slice(None)] * dim, slice(start, stop, step))
    return lambda _, x: (x[index],)


@builder(t.BroadcastOp)
def _broadcast(op: t.BroadcastOp) -> Kernel:
    shape = t.shape_of(op.result)
    return lambda _, x: (np.broadcast_to(x, shape),)


@builder(t.ConcatOp)
def _concat(op: t.ConcatOp) -> Kernel:
    dim = op.dim.value.data
    return lambda _, *sources: (np.concatenate(sources, axis=dim),)
