"""Operators as functions on arrays: a registry from op class to the builder of its kernel.

A builder reads an op's properties and types once and returns a *kernel*, `kernel(scalars,
*operands) -> results`, on arrays in their carriers (see `values`). Blocks are built the same way,
so that running a body a thousand times costs no look at the IR.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from xdsl.ir import Block, Operation, SSAValue
from xdsl.traits import IsTerminator

from mpkir.backends.interpreter.values import Array, to_carrier, to_storage
from mpkir.errors import MpkirError
from mpkir.registry import Registry


@dataclass
class Scalars:
    """Run-time values that a kernel may read, and the one that it may set."""

    position: int = 0
    """Index in the sequence of the step's first token."""
    coordinates: tuple[int, ...] = ()
    """Grid coordinates of the running task."""
    stop: bool = False
    """Set when a stop token was appended."""


Kernel: TypeAlias = Callable[..., tuple[Array, ...]]
"""`kernel(scalars, *operands)`; operands and results in their carriers."""
BlockKernel: TypeAlias = Callable[[Any, Sequence[Array]], tuple[Array, ...]]
"""`kernel(scalars, arguments)`: what the block's terminator takes."""

_Builder: TypeAlias = Callable[[Any], Kernel]
KERNELS: Registry[type[Operation], _Builder] = Registry(
    "kernels", "mpkir.backends.interpreter.kernels.KERNELS", ("op",)
)
"""Builders of kernels by operator."""

builder = KERNELS.register


def kernel_of(op: Operation) -> Kernel:
    """The kernel of one op. MpkirError if the interpreter does not know the op."""
    build = KERNELS.get(type(op))
    if build is None:
        raise MpkirError(
            f"the interpreter cannot run '{op.name}'",
            where=str(op.location) if op.location is not None else None,
            hint=KERNELS.missing(op),
        )
    return build(op)


def block_kernel(block: Block) -> BlockKernel:
    """The kernel of a block: runs its ops in order and returns the operands of its terminator.

    MpkirError if an op uses a value that is not defined in the block before it.
    """
    slots: dict[SSAValue, int] = {arg: i for i, arg in enumerate(block.args)}
    steps: list[tuple[Kernel, tuple[int, ...]]] = []
    for op in block.ops:
        if op.has_trait(IsTerminator):
            break
        steps.append((kernel_of(op), slots_of(op, slots)))
        for result in op.results:
            slots[result] = len(slots)
    assert block.last_op is not None
    yielded = slots_of(block.last_op, slots)

    def run(scalars: Any, arguments: Sequence[Array]) -> tuple[Array, ...]:
        values = list(arguments)
        for kernel, operands in steps:
            values.extend(kernel(scalars, *[values[i] for i in operands]))
        return tuple([values[i] for i in yielded])

    return run


def evaluate(op: Operation, operands: Sequence[Array], scalars: Scalars) -> tuple[Array, ...]:
    """Run one op on arrays in their storage dtypes; its results likewise.

    MpkirError if an operand has not the shape and dtype of its type.
    """
    arrays = [
        to_carrier(array, value.type, f"operand {i} of {op.name}")
        for i, (array, value) in enumerate(zip(operands, op.operands, strict=True))
    ]
    with np.errstate(all="ignore"):
        results = kernel_of(op)(scalars, *arrays)
    return tuple(to_storage(a, v.type) for a, v in zip(results, op.results, strict=True))


def slots_of(op: Operation, slots: dict[SSAValue, int]) -> tuple[int, ...]:
    """The numbers of an op's operands. MpkirError if one has none."""
    try:
        return tuple(slots[value] for value in op.operands)
    except KeyError:
        raise MpkirError(
            f"'{op.name}' uses a value that its block has not defined before it",
            where=str(op.location) if op.location is not None else None,
        ) from None
