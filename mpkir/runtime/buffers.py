"""The memory of a program: one tensor for each buffer of the manifest."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from mpkir.errors import MpkirError
from mpkir.runtime.manifest import Buffer

ALIGNMENT = 256
"""Bytes; what is allocated here starts at a multiple of it."""
BOUND_ALIGNMENT = 64
"""Bytes; a tensor handed over is used as it is if it starts at a multiple of this (torch's own)."""

TORCH_DTYPES = {
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "f32": torch.float32,
    "f64": torch.float64,
    "i1": torch.bool,
    "i8": torch.int8,
    "ui8": torch.uint8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
}
"""Element types of buffers by their IR names."""


def dtype_name(dtype: torch.dtype) -> str:
    """The IR name of a torch element type. Raises MpkirError if buffers can't have it."""
    for name, torch_dtype in TORCH_DTYPES.items():
        if torch_dtype == dtype:
            return name
    raise MpkirError(
        f"{dtype} is no element type of a buffer",
        hint=f"use one of {', '.join(str(d) for d in TORCH_DTYPES.values())}",
    )


def allocate(buffer: Buffer, device: torch.device) -> torch.Tensor:
    """New memory for a buffer, filled with its initial value."""
    dtype = TORCH_DTYPES[buffer.dtype]
    size = math.prod(buffer.shape) * dtype.itemsize
    memory = torch.empty(size + ALIGNMENT, dtype=torch.uint8, device=device)
    skip = -memory.data_ptr() % ALIGNMENT
    tensor = memory[skip : skip + size].view(dtype).view(buffer.shape)
    return tensor.fill_(buffer.initial or 0)


def bind(buffer: Buffer, tensors: Mapping[str, torch.Tensor], device: torch.device) -> torch.Tensor:
    """The tensor that fills a weight or constant: itself if it lies right, or else a copy.

    tensors: by source name. Raises MpkirError if it is missing or has another shape or dtype.
    """
    source = buffer.source or buffer.name
    if source not in tensors:
        raise MpkirError(
            f"{buffer.kind} {source!r} is missing among {len(tensors)} tensors",
            hint="give the weights of the very model that was compiled",
        )
    tensor = tensors[source].detach()
    check_fits(buffer, tensor, f"{buffer.kind} {source!r}")
    on_device = tensor.to(device).contiguous()
    if on_device.data_ptr() % BOUND_ALIGNMENT == 0:
        return on_device
    return allocate(buffer, device).copy_(on_device)


def check_fits(buffer: Buffer, tensor: torch.Tensor, what: str) -> None:
    """Raise MpkirError unless `tensor`, called `what`, has the buffer's shape and dtype."""
    if tuple(tensor.shape) != buffer.shape or tensor.dtype != TORCH_DTYPES[buffer.dtype]:
        raise MpkirError(
            f"{what} is {dtype_name(tensor.dtype)}{list(tensor.shape)}, the program was compiled "
            f"for {buffer.dtype}{list(buffer.shape)}",
            hint="give a tensor of that shape and type, or compile again for this one",
        )
