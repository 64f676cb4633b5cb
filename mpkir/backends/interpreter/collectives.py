"""What ranks exchange, as functions of what each of them has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from xdsl.ir import Operation

from mpkir.backends.interpreter.kernels import Scalars, block_kernel
from mpkir.backends.interpreter.values import Array, rounding_to
from mpkir.dialects import tensor as t
from mpkir.errors import MpkirError

Collective: TypeAlias = Callable[[Sequence[Scalars], Sequence[Sequence[Array]]], list[Array]]
"""`collective(scalars, operands)`, each by rank: the result on each rank."""


def collective_of(op: Operation) -> Collective | None:
    """The function of a collective; None for an operator that each rank runs by itself."""
    match op:
        case t.AllReduceOp():
            return _all_reduce(op)
        case t.AllGatherOp():
            return _all_gather(op)
        case t.ReduceScatterOp():
            return _reduce_scatter(op)
        case _:
            return None


def _parts(arrays: Sequence[Array], of: int) -> Sequence[Array]:
    """The different ones, in the order of ranks: of neighbours that have the same one, the first's.

    MpkirError if their bits differ.
    """
    beside = len(arrays) // of
    for first in range(0, len(arrays), beside):
        for other in arrays[first + 1 : first + beside]:
            if other.tobytes() != arrays[first].tobytes():
                raise MpkirError(f"ranks {first} to {first + beside - 1} should have the same")
    return arrays[::beside]


def _sum_of(arrays: Sequence[Array], of: int) -> Array:
    total, *others = _parts(arrays, of)
    for each in others:
        total = total + each
    return total


def _all_reduce(op: t.AllReduceOp) -> Collective:
    of, shape = op.of.value.data, t.shape_of(op.result)
    epilogue = None if op.epilogue is None else block_kernel(op.epilogue.block)
    to_type = rounding_to(t.element_type_of(op.result))

    def run(scalars: Sequence[Scalars], operands: Sequence[Sequence[Array]]) -> list[Array]:
        total = _sum_of([each[0] for each in operands], of)
        if epilogue is None:
            return [to_type(total)] * len(operands)
        values = (
            epilogue(own, (total, *each[1:])) for own, each in zip(scalars, operands, strict=True)
        )
        return [np.broadcast_to(value, shape) for (value,) in values]

    return run


def _all_gather(op: t.AllGatherOp) -> Collective:
    dim, of = op.dim.value.data, op.of.value.data

    def run(_: Sequence[Scalars], operands: Sequence[Sequence[Array]]) -> list[Array]:
        parts = _parts([each[0] for each in operands], of)
        return [np.concatenate(parts, axis=dim)] * len(operands)

    return run


def _reduce_scatter(op: t.ReduceScatterOp) -> Collective:
    dim, of = op.dim.value.data, op.of.value.data
    to_type = rounding_to(t.element_type_of(op.result))

    def run(_: Sequence[Scalars], operands: Sequence[Sequence[Array]]) -> list[Array]:
        total = to_type(_sum_of([each[0] for each in operands], of))
        return [part for part in np.split(total, of, axis=dim) for _ in operands[::of]]

    return run
