"""The buffers of a program at task or event level, as NumPy arrays in their carriers.

Each rank has a memory. What is given and asked for is whole, whatever its shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from xdsl.dialects.builtin import MemRefType, ModuleOp
from xdsl.ir import Attribute, SSAValue

from mpkir.backends.interpreter.given import given_array, together
from mpkir.backends.interpreter.values import (
    Array,
    carrier_dtype,
    storage_dtype,
    to_carrier,
    to_storage,
)
from mpkir.dialects import task
from mpkir.dialects.shards import ShardAttr
from mpkir.dialects.task import BufferKind


def _parts(op: task.BufferOp) -> tuple[tuple[int, ...], Attribute]:
    assert isinstance(op.result.type, MemRefType)
    return tuple(op.result.type.get_shape()), op.result.type.get_element_type()


class Memory:
    """One rank's array for each buffer; weights and states are widened once, not each step.

    Scratch and outputs begin as NaN (the least value of an integer type), so that reading what
    nobody wrote shows in the results.
    """

    arrays: dict[str, Array]
    """By name, of all but weights."""

    def __init__(self, module: ModuleOp, weights: Mapping[str, Array], rank: int = 0):
        self.rank = rank
        self._buffers = {op.sym.data: op for op in module.walk() if isinstance(op, task.BufferOp)}
        self.arrays = {}
        self._weights: dict[task.BufferOp, Array] = {}
        """By buffer: a rank may have all of a weight, and its shard of the same one beside it."""
        for op in module.walk():
            if not isinstance(op, task.BufferOp):
                continue
            if op.kind.data is BufferKind.WEIGHT:
                self._weights[op] = self._checked(op, weights)
            else:
                shape, element_type = _parts(op)
                self.arrays[op.sym.data] = np.empty(shape, carrier_dtype(element_type))
        self.poison()

    def poison(self) -> None:
        """Forget scratch and outputs."""
        for op in self._of_kind(BufferKind.SCRATCH, BufferKind.OUTPUT):
            array = self.arrays[op.sym.data]
            floating = np.issubdtype(array.dtype, np.floating)
            array[...] = np.nan if floating else _least(array.dtype)

    def load(self, states: Mapping[str, Array], inputs: Mapping[str, Array]) -> None:
        """Copy states and inputs in. MpkirError if one is missing or does not fit."""
        for kind, given in ((BufferKind.STATE, states), (BufferKind.INPUT, inputs)):
            for op in self._of_kind(kind):
                self.arrays[op.sym.data][...] = self._checked(op, given)

    def parts_of(self, kind: BufferKind) -> dict[str, tuple[Array, ShardAttr | None]]:
        """What the rank has of each buffer of a kind, in storage dtypes, and which shard it is."""
        return {
            op.sym.data: (to_storage(self.arrays[op.sym.data], op.result.type), op.shard)
            for op in self._of_kind(kind)
        }

    def scratch(self) -> frozenset[str]:
        """Names of the buffers whose contents no step may count on before it has written them."""
        return frozenset(op.sym.data for op in self._of_kind(BufferKind.SCRATCH))

    def view(self, value: SSAValue) -> Array:
        """The array behind a memref value, in that value's shape and layout."""
        buffer = task.buffer_of(value)
        weight = self._weights.get(buffer)
        array = self.arrays[buffer.sym.data] if weight is None else weight
        return as_view(array, value, self.rank)

    def _checked(self, op: task.BufferOp, given: Mapping[str, Array]) -> Array:
        kind = str(op.kind.data)
        array = given_array(op, given, kind, self.rank)
        return to_carrier(array, op.result.type, f"{kind} '{op.sym.data}'")

    def _of_kind(self, *kinds: BufferKind) -> list[task.BufferOp]:
        return [op for op in self._buffers.values() if op.kind.data in kinds]


def as_view(array: Array, value: SSAValue, rank: int = 0) -> Array:
    """A buffer's array, or any other of its size, as a view of that buffer shows it, to a rank."""
    type = task.memref_type_of(value)
    strides, offset = task.layout_of(type)
    if task.is_mine(value):
        offset += rank * task.row_elements(task.buffer_of(value))
    flat = array.reshape(-1)
    step = flat.itemsize
    return np.lib.stride_tricks.as_strided(
        flat[offset:], type.get_shape(), tuple(stride * step for stride in strides)
    )


def give_back(memories: Sequence[Memory], states: Mapping[str, Array]) -> dict[str, Array]:
    """Copy states out of all ranks' memories, in place, and return new arrays of the outputs.

    MpkirError where ranks that should have the same differ.
    """
    for name, (shard, parts) in _of_all(memories, BufferKind.STATE).items():
        together(name, parts, shard, states[name])
    outputs = _of_all(memories, BufferKind.OUTPUT)
    return {name: together(name, parts, shard) for name, (shard, parts) in outputs.items()}


def _of_all(
    memories: Sequence[Memory], kind: BufferKind
) -> dict[str, tuple[ShardAttr | None, list[Array]]]:
    """Of each buffer of a kind which shard a rank has, and what every rank has."""
    found = [memory.parts_of(kind) for memory in memories]
    return {
        name: (shard, [each[name][0] for each in found]) for name, (_, shard) in found[0].items()
    }


def initial_states(module: ModuleOp) -> dict[str, Array]:
    """Every state of a program at task or event level, whole, as it is before the first step."""
    states: dict[str, Array] = {}
    for op in module.walk():
        if isinstance(op, task.BufferOp) and op.kind.data is BufferKind.STATE:
            shape, element_type = _parts(op)
            shape = shape if op.shard is None else op.shard.whole_shape(shape)
            states[op.sym.data] = np.full(
                shape, op.initial.value.data, carrier_dtype(element_type)
            ).astype(storage_dtype(element_type))
    return states


def _least(dtype: np.dtype[Any]) -> int:
    return 0 if dtype == np.bool_ else int(np.iinfo(dtype).min)
