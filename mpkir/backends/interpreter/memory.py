"""The buffers of a program at task or event level, as NumPy arrays in their carriers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from xdsl.dialects.builtin import MemRefType, ModuleOp
from xdsl.ir import Attribute, SSAValue

from mpkir.backends.interpreter.given import given_array
from mpkir.backends.interpreter.values import (
    Array,
    carrier_dtype,
    storage_dtype,
    to_carrier,
    to_storage,
)
from mpkir.dialects import task
from mpkir.dialects.task import BufferKind


def _parts(op: task.BufferOp) -> tuple[tuple[int, ...], Attribute]:
    assert isinstance(op.result.type, MemRefType)
    return tuple(op.result.type.get_shape()), op.result.type.get_element_type()


class Memory:
    """One array for each buffer; weights and states are widened once, not each step.

    Scratch and outputs begin as NaN (the least value of an integer type), so that reading what
    nobody wrote shows in the results.
    """

    arrays: dict[str, Array]

    def __init__(self, module: ModuleOp, weights: Mapping[str, Array]):
        self._buffers = {op.sym.data: op for op in module.walk() if isinstance(op, task.BufferOp)}
        self.arrays = {}
        for name, op in self._buffers.items():
            if op.kind.data is BufferKind.WEIGHT:
                self.arrays[name] = _checked(op, weights)
            else:
                shape, element_type = _parts(op)
                self.arrays[name] = np.empty(shape, carrier_dtype(element_type))
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
                self.arrays[op.sym.data][...] = _checked(op, given)

    def store(self, states: Mapping[str, Array]) -> None:
        """Copy states out, in place."""
        for op in self._of_kind(BufferKind.STATE):
            states[op.sym.data][...] = self.arrays[op.sym.data]

    def outputs(self) -> dict[str, Array]:
        """New arrays, in their storage dtypes, of what the program has written to its outputs."""
        return {
            op.sym.data: to_storage(self.arrays[op.sym.data], op.result.type)
            for op in self._of_kind(BufferKind.OUTPUT)
        }

    def scratch(self) -> frozenset[str]:
        """Names of the buffers whose contents no step may count on before it has written them."""
        return frozenset(op.sym.data for op in self._of_kind(BufferKind.SCRATCH))

    def view(self, value: SSAValue) -> Array:
        """The array behind a memref value, in that value's shape and layout."""
        return as_view(self.arrays[task.buffer_of(value).sym.data], value)

    def _of_kind(self, *kinds: BufferKind) -> list[task.BufferOp]:
        return [op for op in self._buffers.values() if op.kind.data in kinds]


def as_view(array: Array, value: SSAValue) -> Array:
    """A buffer's array, or any other of its size, as a view of that buffer shows it."""
    type = task.memref_type_of(value)
    strides, offset = task.layout_of(type)
    flat = array.reshape(-1)
    step = flat.itemsize
    return np.lib.stride_tricks.as_strided(
        flat[offset:], type.get_shape(), tuple(stride * step for stride in strides)
    )


def initial_states(module: ModuleOp) -> dict[str, Array]:
    """Every state of a program at task or event level as it is before the first step."""
    states: dict[str, Array] = {}
    for op in module.walk():
        if isinstance(op, task.BufferOp) and op.kind.data is BufferKind.STATE:
            shape, element_type = _parts(op)
            states[op.sym.data] = np.full(
                shape, op.initial.value.data, carrier_dtype(element_type)
            ).astype(storage_dtype(element_type))
    return states


def _checked(op: task.BufferOp, given: Mapping[str, Array]) -> Array:
    kind = str(op.kind.data)
    return to_carrier(given_array(op, given, kind), op.result.type, f"{kind} '{op.sym.data}'")


def _least(dtype: np.dtype[Any]) -> int:
    return 0 if dtype == np.bool_ else int(np.iinfo(dtype).min)
