"""Kernels of the generation loop: the token sequence and the parts of argmax."""

from __future__ import annotations

import numpy as np

from mpkir.backends.interpreter.kernels import Kernel, Scalars, builder
from mpkir.backends.interpreter.values import Array
from mpkir.dialects import tensor as t
from mpkir.errors import MpkirError

_UNKNOWN = -1


def _append(
    scalars: Scalars, sequence: Array, token: Array, position: Array, stop: frozenset[int]
) -> Array:
    """The sequence with `token`'s last element after the step's last, if that place is unknown."""
    place = int(position[-1]) + 1
    if place >= sequence.shape[-1]:
        capacity = sequence.shape[-1] - 1
        raise MpkirError(f"position {place - 1} is outside a sequence for {capacity}")
    if sequence.ndim == 2:
        return _append_rows(scalars, sequence, token, place, len(position), stop)
    chosen = int(token.reshape(-1)[-1])
    if sequence[place] != _UNKNOWN:
        return sequence
    scalars.stop = scalars.stop or chosen in stop
    result = sequence.copy()
    result[place] = chosen
    return result


def _append_rows(
    scalars: Scalars,
    sequences: Array,
    token: Array,
    place: int,
    tokens: int,
    stop: frozenset[int],
) -> Array:
    """Several sequences, each with its token at `place`; a step has `tokens` positions."""
    result = sequences.copy()
    ended = 0
    for row, chosen in zip(result, token.reshape(len(result), -1)[:, -1], strict=True):
        ends = row[place] == t.ENDED
        if row[place] == _UNKNOWN:
            row[place] = chosen
            ends = int(chosen) in stop
        if ends and place + tokens < len(row):
            row[place + tokens] = t.ENDED
        ended += bool(ends)
    scalars.stop = scalars.stop or ended == len(result)
    return result


@builder(t.SequenceReadOp)
def _sequence_read(op: t.SequenceReadOp) -> Kernel:
    return lambda _, sequence, position: (np.atleast_2d(sequence)[:, position],)


@builder(t.SequenceAppendOp)
def _sequence_append(op: t.SequenceAppendOp) -> Kernel:
    stop = frozenset(op.stop.get_values())
    return lambda scalars, sequence, token, position: (
        _append(scalars, sequence, token, position, stop),
    )


@builder(t.ArgmaxPartialOp)
def _argmax_partial(op: t.ArgmaxPartialOp) -> Kernel:
    chunk = op.chunk.value.data
    *rows, size = t.shape_of(op.x)
    chunks = -(-size // chunk)
    padding = [(0, 0)] * len(rows) + [(0, chunks * chunk - size)]

    def run(_: Scalars, x: Array, origin: Array | None = None) -> tuple[Array, ...]:
        if chunks * chunk != size:
            x = np.pad(x, padding, constant_values=-np.inf)
        x = x.reshape(*rows, chunks, chunk)
        local = np.argmax(x, axis=-1)
        value = np.take_along_axis(x, local[..., np.newaxis], axis=-1)[..., 0]
        first = 0 if origin is None else int(origin[0])
        return value, local + (first + np.arange(chunks)) * chunk

    return run


@builder(t.ArgmaxJoinOp)
def _argmax_join(op: t.ArgmaxJoinOp) -> Kernel:
    chunk, part = op.chunk.value.data, op.part.value.data
    *rows, size = t.shape_of(op.value)
    chunks = -(-size // chunk)
    padding = [(0, 0)] * len(rows) + [(0, chunks * chunk - size)]

    def run(_: Scalars, value: Array, index: Array, origin: Array | None = None):
        first = 0 if origin is None else int(origin[0]) * chunk
        index = np.pad(index + (first + np.arange(size)) * part, padding)
        value = np.pad(value, padding, constant_values=-np.inf)
        value, index = (each.reshape(*rows, chunks, chunk) for each in (value, index))
        best = np.argmax(value, axis=-1)[..., np.newaxis]
        return tuple(np.take_along_axis(each, best, axis=-1)[..., 0] for each in (value, index))

    return run


@builder(t.ArgmaxMergeOp)
def _argmax_merge(op: t.ArgmaxMergeOp) -> Kernel:
    stop = frozenset(op.stop.get_values())
    each, size = op.part

    def run(
        scalars: Scalars,
        value: Array,
        index: Array,
        sequence: Array | None = None,
        position: Array | None = None,
    ) -> tuple[Array, ...]:
        # Chunks are in ascending order of index: the first of equal values has the lowest index.
        best = np.argmax(value, axis=-1)[..., np.newaxis]
        token = (np.take_along_axis(index, best, axis=-1) + best // each * size)[..., 0]
        if sequence is None or position is None:
            return (token,)
        return token, _append(scalars, sequence, token, position, stop)

    return run
