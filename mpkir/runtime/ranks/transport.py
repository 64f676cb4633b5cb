"""The memory that ranks write for each other, behind one interface for each way to have it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import torch

from mpkir.errors import MpkirError

if TYPE_CHECKING:
    from mpkir.runtime.ranks.group import Group


SYMMETRIC, NVSHMEM = "symmetric-memory", "nvshmem"
"""Of GPUs: torch's, on one host; NVIDIA's."""


class Heap(Protocol):
    """One allocation of the same size on every rank, which all of them can write.

    memory   the own one, uint8 [bytes], zero at first on all ranks when the call that made it
             returns
    deltas   by how many bytes the memory of each rank lies behind the own one, in the address
             space of this process or its GPU; 0 for the own

    It lasts as long as somebody refers to it, here or on another rank.
    """

    memory: torch.Tensor
    deltas: tuple[int, ...]


def open_heap(size: int, device: torch.device, group: Group) -> Heap:
    """The heap of `size` bytes of all ranks of a group; each of them has to call this.

    Threads of several processes share memory of the host's; GPUs of one host map each other's
    memory; those of several hosts need NVSHMEM, which $MPKIR_TRANSPORT=nvshmem takes on one host
    too. Raises MpkirError where that cannot be had.
    """
    if device.type == "cpu":
        from mpkir.runtime.ranks.shared_memory import SharedMemory

        return SharedMemory(size, group)
    check_distinct(group, str(torch.cuda.get_device_properties(device).uuid))
    chosen = os.environ.get("MPKIR_TRANSPORT") or (SYMMETRIC if group.is_one_host else NVSHMEM)
    if chosen == SYMMETRIC:
        from mpkir.runtime.ranks.symmetric_memory import SymmetricMemory

        return SymmetricMemory(size, device, group)
    if chosen == NVSHMEM:
        from mpkir.runtime.ranks.nvshmem import Nvshmem

        return Nvshmem(size, device, group)
    raise MpkirError(
        f"{chosen!r} is no way to share memory",
        where="environment: MPKIR_TRANSPORT",
        hint=f"set it to {SYMMETRIC} or {NVSHMEM}, or not at all",
    )


def check_distinct(group: Group, gpu: str) -> None:
    """Raise MpkirError, on all ranks, where two have the same GPU: neither would leave it to the
    other, for which it waits."""
    first: dict[bytes, int] = {}
    for rank, other in enumerate(group.gather(gpu.encode())):
        if first.setdefault(other, rank) != rank:
            raise group.fail(
                MpkirError(
                    f"ranks {first[other]} and {rank} have the same GPU",
                    where=gpu,
                    hint="start one rank for each GPU, at most as many as the host has",
                )
            )
