"""Kernels of mixtures of experts: the router's choice, products of chosen weights."""

from __future__ import annotations

import numpy as np

from mpkir.backends.interpreter.kernels import Kernel, block_kernel, builder
from mpkir.backends.interpreter.kernels import Scalars as RunTime
from mpkir.backends.interpreter.values import Array, rounding_to
from mpkir.dialects import tensor as t


@builder(t.TopkOp)
def _topk(op: t.TopkOp) -> Kernel:
    k, scores = op.k, op.scores.data
    to_type = rounding_to(t.element_type_of(op.values))

    def run(_: RunTime, x: Array) -> tuple[Array, ...]:
        ranked = x
        if np.issubdtype(x.dtype, np.floating):
            ranked = np.where(np.isnan(x), np.inf, x)
        # A stable sort of the reversed row, read backwards: the first of equals comes first.
        order = np.argsort(ranked[..., ::-1], axis=-1, kind="stable")[..., ::-1]
        indices = x.shape[-1] - 1 - order[..., :k]
        values = np.take_along_axis(x, indices, axis=-1)
        if scores is not t.Scores.RAW:
            top = values[..., :1]
            values = np.exp(values - top)
            all_ = values if scores is t.Scores.SOFTMAX_OF_CHOSEN else np.exp(x - top)
            values = values / np.sum(all_, axis=-1, keepdims=True)
        return to_type(values), indices

    return run


@builder(t.ExpertLinearOp)
def _expert_linear(op: t.ExpertLinearOp) -> Kernel:
    prologue = None if op.prologue is None else block_kernel(op.prologue.block)
    epilogue = None if op.epilogue is None else block_kernel(op.epilogue.block)
    weights, firsts, slots = len(op.weights), op.firsts, op.slots
    scaled = op.scales is not None
    first_prologue_arg = weights + 1 + scaled
    first_epilogue_arg = first_prologue_arg + len(op.prologue_args)
    shape, depth = t.shape_of(op.result), t.shape_of(op.x)[-1]
    last = t.shape_of(op.weights[0])[0] - 1
    to_type = rounding_to(t.element_type_of(op.result))

    def run(scalars: RunTime, x: Array, *rest: Array) -> tuple[Array, ...]:
        if prologue is not None:
            (x,) = prologue(scalars, (x, *rest[first_prologue_arg:first_epilogue_arg]))
        chosen = np.clip(rest[weights], 0, last)
        rows = x.reshape(-1, depth)
        rows = np.repeat(rows, slots // len(rows), axis=0)[..., np.newaxis]
        sums: list[Array] = []
        for stack, first in zip(rest[:weights], firsts, strict=True):
            each = (stack[chosen, first : first + shape[-1]] @ rows)[..., 0]
            if scaled:
                each = each * rest[weights + 1][:, np.newaxis]
                each = each.reshape(op.rows, -1, shape[-1]).sum(axis=1)
            sums.append(each.reshape(shape))
        if epilogue is None:
            return (to_type(sums[0]),)
        (y,) = epilogue(scalars, (*sums, *rest[first_epilogue_arg:]))
        return (np.broadcast_to(y, shape),)

    return run
