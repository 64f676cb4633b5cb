"""What is handed to a program by name: arrays, of which several may make up one weight.

They are those of the model, whole; a rank takes its shards of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from xdsl.dialects.builtin import MemRefType, TensorType

from mpkir.backends.interpreter.values import Array
from mpkir.dialects import task, tensor
from mpkir.dialects.mesh import ranks_of
from mpkir.dialects.shards import ShardAttr
from mpkir.errors import MpkirError


def given_array(
    op: tensor.WeightOp | tensor.InputOp | tensor.StateOp | task.BufferOp,
    given: Mapping[str, Array],
    kind: str,
    rank: int = 0,
) -> Array:
    """A rank's array for a named source, the rows of all its parts if it is a joined weight.

    `kind` is what a message calls it. MpkirError if an array is missing, or a part has other rows.
    """
    parts = op.parts if isinstance(op, tensor.WeightOp | task.BufferOp) else None
    ranks = ranks_of(op)
    if parts is None:
        shard = None if isinstance(op, tensor.InputOp) else op.shard
        return _part(_found(op.sym.data, given, kind), shard, rank, ranks)
    assert isinstance(op.result.type, TensorType | MemRefType)
    whole = op.result.type.get_shape()
    arrays: list[Array] = []
    for (name, rows), shard in zip(parts.items, parts.shards, strict=True):
        array = _part(_found(name, given, kind), shard, rank, ranks)
        wanted = (rows, *whole[1:])
        if array.shape != wanted:
            raise MpkirError(f"{kind} '{name}' has shape {array.shape}, expected {wanted}")
        arrays.append(array)
    return np.concatenate(arrays)


def _part(whole: Array, shard: ShardAttr | None, rank: int, ranks: int) -> Array:
    return whole if shard is None else whole[shard.part_of(whole.shape, rank, ranks)]


def together(
    name: str, parts: Sequence[Array], shard: ShardAttr | None, into: Array | None = None
) -> Array:
    """The whole of what each rank has a part of, in their order; written `into` an array if given.

    MpkirError where ranks that should have the same differ.
    """
    ranks = len(parts)
    if into is None:
        shape = parts[0].shape if shard is None else shard.whole_shape(parts[0].shape)
        into = np.empty(shape, parts[0].dtype)
    for rank, part in enumerate(parts):
        into[... if shard is None else shard.part_of(into.shape, rank, ranks)] = part
    for rank, part in enumerate(parts):
        own = into if shard is None else into[shard.part_of(into.shape, rank, ranks)]
        if own.tobytes() != np.ascontiguousarray(part).tobytes():
            raise MpkirError(f"rank {rank} has another '{name}' than a rank that should have its")
    return into


def _found(name: str, given: Mapping[str, Array], kind: str) -> Array:
    if name not in given:
        raise MpkirError(f"no array for the {kind} '{name}'")
    return given[name]
