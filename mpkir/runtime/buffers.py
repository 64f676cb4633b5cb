"""The memory of a program: one tensor for each buffer of the manifest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from mpkir.errors import MpkirError
from mpkir.runtime.manifest import DTYPE_BYTES, PACKED_COLUMNS, PACKED_ROWS, TAGGED_BYTES, Buffer

ALIGNMENT = 256
"""Bytes; what is allocated here starts at a multiple of it."""
BOUND_ALIGNMENT = 64
"""Bytes; a tensor handed over is used as it is if it starts at a multiple of this (torch's own)."""

TORCH_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_BYTES}


_TAGGED_WORDS = {4: torch.int32, 8: torch.int64}


def memory_dtype(dtype: str, flagged: bool) -> torch.dtype:
    """What a buffer's elements are in memory: numbers of its element type, or words with a tag."""
    return _TAGGED_WORDS[TAGGED_BYTES[dtype]] if flagged else TORCH_DTYPES[dtype]


def values_of(buffer: Buffer, memory: torch.Tensor) -> torch.Tensor:
    """What a buffer's memory holds, as its element type: without the tags, if it is flagged.

    A 16-bit float lies in the upper half of its word, a 32-bit one in the lower.
    """
    if not buffer.flagged:
        return memory
    half = 1 if TAGGED_BYTES[buffer.dtype] == 4 else 0
    return memory.view(TORCH_DTYPES[buffer.dtype]).view(*buffer.shape, 2)[..., half]


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
    dtype = memory_dtype(buffer.dtype, buffer.flagged)
    size = math.prod(buffer.shape) * dtype.itemsize
    memory = torch.empty(size + ALIGNMENT, dtype=torch.uint8, device=device)
    skip = -memory.data_ptr() % ALIGNMENT
    tensor = memory[skip : skip + size].view(dtype).view(buffer.shape)
    return tensor.fill_(buffer.initial or 0)


def bind(buffer: Buffer, tensors: Mapping[str, torch.Tensor], device: torch.device) -> torch.Tensor:
    """The tensor that fills a weight or constant: itself if it lies right, or else a copy.

    tensors: by source name. Raises MpkirError if one is missing or has another shape or dtype.
    """
    if buffer.parts:
        return _joined(buffer, tensors, device)
    on_device = _given(buffer, tensors).to(device)
    if buffer.packed:
        on_device = packed(on_device)
    on_device = on_device.contiguous()
    if on_device.data_ptr() % BOUND_ALIGNMENT == 0:
        return on_device
    return allocate(buffer, device).copy_(on_device)


def _joined(
    buffer: Buffer, tensors: Mapping[str, torch.Tensor], device: torch.device
) -> torch.Tensor:
    """New memory with the parts of a joined weight, each copied straight to its rows."""
    memory = allocate(buffer, device)
    first = 0
    for part in buffer.parts:
        shape = (part.rows, *buffer.shape[1:])
        rows = replace(buffer, source=part.source, shape=shape, parts=())
        tensor = _given(rows, tensors)
        end = first + part.rows
        # Whole blocks of rows are packed, so packed parts are the parts of what is packed.
        memory[first:end].copy_(packed(tensor.to(device)) if buffer.packed else tensor)
        first = end
    return memory


def _given(buffer: Buffer, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The tensor of a buffer's source, checked, wherever it lies."""
    source = buffer.source or buffer.name
    if source not in tensors:
        raise MpkirError(
            f"{buffer.kind} {source!r} is missing among {len(tensors)} tensors",
            hint="give the weights of the very model that was compiled",
        )
    tensor = tensors[source].detach()
    check_fits(buffer, tensor, f"{buffer.kind} {source!r}")
    return tensor


def packed(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix [N, K] as it lies packed, [N / 8][K / 32][8][32], still called [N, K]."""
    rows, columns = matrix.shape
    blocks = matrix.view(
        rows // PACKED_ROWS, PACKED_ROWS, columns // PACKED_COLUMNS, PACKED_COLUMNS
    )
    return blocks.transpose(1, 2).reshape(rows, columns)


def check_fits(buffer: Buffer, tensor: torch.Tensor, what: str) -> None:
    """Raise MpkirError unless `tensor`, called `what`, has the buffer's shape and dtype."""
    if tuple(tensor.shape) != buffer.shape or tensor.dtype != TORCH_DTYPES[buffer.dtype]:
        raise MpkirError(
            f"{what} is {dtype_name(tensor.dtype)}{list(tensor.shape)}, the program was compiled "
            f"for {buffer.dtype}{list(buffer.shape)}",
            hint="give a tensor of that shape and type, or compile again for this one",
        )
