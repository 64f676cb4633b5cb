"""Kernels of products: sums in double, rounded to fp32, then once to the result's type.

A tile's product so has the bits of the whole one's: in which order BLAS adds in fp32 depends on the
shapes, and a last bit decides how 16 bits round.
"""

from __future__ import annotations

import numpy as np

from mpkir.backends.interpreter.kernels import Kernel, Scalars, block_kernel, builder
from mpkir.backends.interpreter.values import Array, rounding_to
from mpkir.dialects import tensor as t


def _product(a: Array, b: Array) -> Array:
    return np.matmul(a, b, dtype=np.float64).astype(a.dtype)


@builder(t.LinearOp)
def _linear(op: t.LinearOp) -> Kernel:
    prologue = None if op.prologue is None else block_kernel(op.prologue.block)
    epilogue = None if op.epilogue is None else block_kernel(op.epilogue.block)
    weights = len(op.weights)
    first_epilogue_arg = 1 + weights + len(op.prologue_args)
    shape, columns = t.shape_of(op.result), t.shape_of(op.x)[-1]
    to_type = rounding_to(t.element_type_of(op.result))
    best = None if op.best is None else op.best.value.data

    def run(scalars: Scalars, x: Array, *rest: Array) -> tuple[Array, ...]:
        if prologue is not None:
            (x,) = prologue(scalars, (x, *rest[weights : first_epilogue_arg - 1]))
        rows = x.reshape(-1, columns)
        sums = [_product(rows, w.T).reshape(shape) for w in rest[:weights]]
        if epilogue is None:
            y = to_type(sums[0])
        else:
            (y,) = epilogue(scalars, (*sums, *rest[first_epilogue_arg - 1 :]))
            y = np.broadcast_to(y, shape)
        return (y,) if best is None else (y, *_best(y, best))

    return run


def _best(y: Array, of: int) -> tuple[Array, Array]:
    """Of every so many neighbours in y [.., N] the first largest, [.., N / of], and which it is."""
    parts = y.reshape(*y.shape[:-1], -1, of)
    index = np.argmax(parts, axis=-1)
    value = np.take_along_axis(parts, index[..., np.newaxis], axis=-1)[..., 0]
    return value, index


@builder(t.MatmulOp)
def _matmul(op: t.MatmulOp) -> Kernel:
    to_type = rounding_to(t.element_type_of(op.result))
    return lambda _, a, b: (to_type(_product(a, b)),)


@builder(t.EmbeddingOp)
def _embedding(op: t.EmbeddingOp) -> Kernel:
    shape, last = t.shape_of(op.result), t.shape_of(op.table)[0] - 1

    def run(_: Scalars, table: Array, ids: Array, position: Array | None = None):
        chosen = ids if position is None else np.atleast_2d(ids)[:, position]
        return (table[np.clip(chosen, 0, last)].reshape(shape),)

    return run


@builder(t.ArgmaxOp)
def _argmax(op: t.ArgmaxOp) -> Kernel:
    return lambda _, x: (np.argmax(x, axis=-1),)
