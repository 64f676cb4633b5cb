"""What is handed to a program by name: arrays, of which several may make up one weight."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from xdsl.dialects.builtin import MemRefType, TensorType

from mpkir.backends.interpreter.values import Array
from mpkir.dialects import task, tensor
from mpkir.errors import MpkirError


def given_array(
    op: tensor.WeightOp | tensor.InputOp | tensor.StateOp | task.BufferOp,
    given: Mapping[str, Array],
    kind: str,
) -> Array:
    """The array for a named source, the rows of all its parts if it is a joined weight.

    `kind` is what a message calls it. MpkirError if an array is missing, or a part has other rows.
    """
    parts = op.parts if isinstance(op, tensor.WeightOp | task.BufferOp) else None
    if parts is None:
        return _found(op.sym.data, given, kind)
    assert isinstance(op.result.type, TensorType | MemRefType)
    whole = op.result.type.get_shape()
    arrays: list[Array] = []
    for name, rows in parts.items:
        array = _found(name, given, kind)
        wanted = (rows, *whole[1:])
        if array.shape != wanted:
            raise MpkirError(f"{kind} '{name}' has shape {array.shape}, expected {wanted}")
        arrays.append(array)
    return np.concatenate(arrays)


def _found(name: str, given: Mapping[str, Array], kind: str) -> Array:
    if name not in given:
        raise MpkirError(f"no array for the {kind} '{name}'")
    return given[name]
