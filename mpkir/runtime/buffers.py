"""The memory of a program: one tensor for each buffer of the manifest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch

from mpkir.errors import MpkirError
from mpkir.runtime.manifest import (
    DTYPE_BYTES,
    PACKED_COLUMNS,
    PACKED_ROWS,
    Buffer,
    Part,
    Place,
)
from mpkir.runtime.weights import Box, TensorFiles

ALIGNMENT = 256
"""Bytes; what is allocated here starts at a multiple of it."""
BOUND_ALIGNMENT = 64
"""Bytes; a tensor handed over is used as it is if it starts at a multiple of this (torch's own)."""

_AT_ONCE = 1 << 22
"""Bytes of a weight that are on their way at once."""

TORCH_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_BYTES}


_TAGGED_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
BRIEF_MARKS = {torch.int16: 0x4000, torch.int32: 1}
"""Where brief words have the bit of the step's number."""


def memory_dtype(buffer: Buffer) -> torch.dtype:
    """What a buffer's elements are in memory: numbers of its element type, or words with a tag."""
    return _TAGGED_WORDS[buffer.element_bytes] if buffer.flagged else TORCH_DTYPES[buffer.dtype]


def values_of(buffer: Buffer, memory: torch.Tensor) -> torch.Tensor:
    """What a buffer's memory holds, as its element type: without the tags, if it is flagged.

    A 16-bit float lies in the upper half of its word, a 32-bit one in the lower; a brief one is its
    word but for the mark, of bfloat16 times 2^-64 and not below 1 if it was not below 2^64. What
    lies in planes is their sum.
    """
    if not buffer.flagged:
        return memory
    memory = words_of(buffer, memory)
    if buffer.brief:
        halves = memory.dtype == torch.int16
        kind = torch.bfloat16 if halves else TORCH_DTYPES[buffer.dtype]
        stored = (memory & ~BRIEF_MARKS[memory.dtype]).view(kind)
        if halves:
            stored = torch.where(stored.abs() < 1, stored * 2.0**64, math.nan)
        return stored.float().sum(0) if buffer.planes else stored
    half = 1 if buffer.element_bytes == 4 else 0
    return memory.view(TORCH_DTYPES[buffer.dtype]).view(*buffer.shape, 2)[..., half]


def words_of(buffer: Buffer, memory: torch.Tensor) -> torch.Tensor:
    """The words of a flagged buffer's elements, in its shape, wherever they lie; of what lies in
    planes two of these, [2, ..]."""
    if buffer.planes:
        memory = memory[:, :, : buffer.tokens].transpose(1, 2)
        return memory.contiguous().view(2, *buffer.shape)
    if buffer.panels:
        memory = memory[:, : buffer.tokens].transpose(0, 1)
    elif buffer.apart:
        memory = memory[:, : buffer.apart]
    return memory.contiguous().view(buffer.shape)


def untagged(words: torch.Tensor, tag: int, brief: bool = False) -> torch.Tensor:
    """Which elements of a flagged buffer, by their words, do not carry a tag: bools in their order.

    brief  as in the manifest
    """
    words = words.reshape(-1).cpu()
    if brief:
        return ((words & BRIEF_MARKS[words.dtype]) != 0) != bool(tag & 1)
    if words.dtype == torch.int64:
        return (words >> 32 & 0xFFFFFFFF) != tag
    return (words & 0xFFFF) != (tag & 0xFFFF)


def dtype_name(dtype: torch.dtype) -> str:
    """The name of an element type in a manifest. Raises MpkirError if buffers can't have it."""
    name = str(dtype).removeprefix("torch.")
    if name not in TORCH_DTYPES:
        raise MpkirError(
            f"{name} is no element type of a buffer", hint=f"use one of {', '.join(TORCH_DTYPES)}"
        )
    return name


def allocate(buffer: Buffer, device: torch.device) -> torch.Tensor:
    """New memory for a buffer, filled with its initial value; a flagged one as its tagged words."""
    dtype, shape = memory_dtype(buffer), buffer.memory_shape
    size = math.prod(shape) * dtype.itemsize
    memory = torch.empty(size + ALIGNMENT, dtype=torch.uint8, device=device)
    skip = -memory.data_ptr() % ALIGNMENT
    tensor = memory[skip : skip + size].view(dtype).view(shape)
    return tensor.fill_(buffer.initial or 0)


def bind(
    buffer: Buffer,
    tensors: Mapping[str, torch.Tensor],
    device: torch.device,
    place: Place = Place(),
) -> torch.Tensor:
    """The tensor that fills a weight or constant: itself if it lies right, or else a copy.

    tensors: by source name, whole; of a shard only what `place` has is read. What is copied is
    copied, and packed, a few rows at a time, so that no second copy of a weight is ever there.
    Raises MpkirError if a tensor is missing or has another shape or dtype.
    """
    parts = buffer.parts or (Part(buffer.source or buffer.name, -1, buffer.shard),)
    in_file = _lies_in_file(parts[0].source, buffer, tensors)
    if len(parts) == 1 and parts[0].shard is None and not buffer.packed and in_file is not False:
        given = _given(buffer, parts[0].source, buffer.shape, tensors)
        if not in_file:
            given = given.to(device).contiguous()
        if given.device == device and given.data_ptr() % BOUND_ALIGNMENT == 0:
            return given
        if not in_file:
            return allocate(buffer, device).copy_(given)
        del given
    memory = allocate(buffer, device)
    first = 0
    for part in parts:
        end = first + part.rows if buffer.parts else len(memory)
        _fill(memory[first:end], buffer, part, tensors, place)
        first = end
    return memory


def _lies_in_file(source: str, buffer: Buffer, tensors: Mapping[str, torch.Tensor]) -> bool | None:
    """Whether a tensor of files lies in one piece in one; None for what is in memory."""
    if not isinstance(tensors, TensorFiles) or not buffer.shape or source not in tensors:
        return None
    return tensors.is_in_one_piece(source)


def _fill(
    memory: torch.Tensor,
    buffer: Buffer,
    part: Part,
    tensors: Mapping[str, torch.Tensor],
    place: Place,
) -> None:
    """Copy what a rank has of a tensor to its rows of a buffer."""
    shape, shard = tuple(memory.shape), part.shard
    whole = shape if shard is None else shard.whole(shape)
    box_of = _box_of(buffer, part.source, whole, tensors)
    dim = 0 if shard is None else shard.dim
    spans = [(0, shape[0])] if shard is None else shard.spans(shape[dim], place)
    # Pages of a file count whole, and a shard of columns touches those of all columns.
    at_once = _AT_ONCE // memory.dtype.itemsize * math.prod(shape) // max(1, math.prod(whole))
    # Whole blocks of rows are packed, so packed parts are the parts of what is packed.
    for box in _slabs(shape, at_once, PACKED_ROWS if buffer.packed else 1):
        parts = [box_of((*box[:dim], span, *box[dim + 1 :])) for span in _within(spans, *box[dim])]
        rows = parts[0] if len(parts) == 1 else torch.cat(parts, dim)
        if memory.device.type != "cpu":
            rows = rows.contiguous().to(memory.device)
        place_of = tuple(slice(*each) for each in box)
        memory[place_of].copy_(packed(rows.contiguous()) if buffer.packed else rows)


def _slabs(shape: Sequence[int], most: int, block: int = 1) -> Iterator[Box]:
    """Neighbouring rows of a shape, or rows of one matrix of a stack, about `most` elements at a
    time; whole blocks of rows."""
    row = max(1, math.prod(shape[1:]))
    if len(shape) > 2 and row > most:
        for index in range(shape[0]):
            for slab in _slabs(shape[1:], most):
                yield (index, index + 1), *slab
        return
    step = max(1, most // row // block) * block
    for first in range(0, shape[0], step):
        yield (first, min(first + step, shape[0])), *((0, size) for size in shape[1:])


def _within(spans: Sequence[tuple[int, int]], first: int, end: int) -> Iterator[tuple[int, int]]:
    """Of indices that lie in spans, the first-th up to the end-th."""
    start = 0
    for low, high in spans:
        begin, stop = low + max(first - start, 0), min(low + end - start, high)
        if begin < stop:
            yield begin, stop
        start += high - low


def _box_of(
    buffer: Buffer, source: str, shape: tuple[int, ...], tensors: Mapping[str, torch.Tensor]
) -> Callable[[Box], torch.Tensor]:
    """What gives boxes of a tensor, which is checked."""
    if isinstance(tensors, TensorFiles) and source in tensors:
        one = tensors.box_of(source, ((0, 1),) * len(tensors.shape_of(source)))
        _check(buffer, source, shape, tensors.shape_of(source), one.dtype)
        return partial(tensors.box_of, source)
    given = _given(buffer, source, shape, tensors)
    return lambda box: given[tuple(slice(*span) for span in box)]


def _given(
    buffer: Buffer, source: str, shape: tuple[int, ...], tensors: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """The tensor of a source, checked, wherever it lies."""
    if source not in tensors:
        raise MpkirError(
            f"{buffer.kind} {source!r} is missing among {len(tensors)} tensors",
            hint="give the weights of the very model that was compiled",
        )
    tensor = tensors[source].detach()
    _check(buffer, source, shape, tuple(tensor.shape), tensor.dtype)
    return tensor


def packed(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix [N, K] as it lies packed, still called [N, K]: blocks [N / 8][K / 32][8][32], of 8
    neighbours of a row the pairs 0, 2, 1 and 3."""
    rows, columns = matrix.shape
    pairs = (PACKED_COLUMNS // 8, 2, 2, 2)  # eights, their halves, pairs of a half, elements
    blocks = matrix.view(rows // PACKED_ROWS, PACKED_ROWS, columns // PACKED_COLUMNS, *pairs)
    return blocks.permute(0, 2, 1, 3, 5, 4, 6).reshape(rows, columns)


def check_fits(buffer: Buffer, tensor: torch.Tensor, what: str) -> None:
    """Raise MpkirError unless `tensor`, called `what`, has the buffer's shape and dtype."""
    _check_type(what, buffer.dtype, buffer.shape, tuple(tensor.shape), tensor.dtype)


def _check(
    buffer: Buffer,
    source: str,
    wanted: tuple[int, ...],
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> None:
    _check_type(f"{buffer.kind} {source!r}", buffer.dtype, wanted, shape, dtype)


def _check_type(
    what: str,
    wanted_dtype: str,
    wanted: tuple[int, ...],
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> None:
    if shape != wanted or dtype != TORCH_DTYPES[wanted_dtype]:
        raise MpkirError(
            f"{what} is {dtype_name(dtype)}{list(shape)}, the program was compiled "
            f"for {wanted_dtype}{list(wanted)}",
            hint="give a tensor of that shape and type, or compile again for this one",
        )
