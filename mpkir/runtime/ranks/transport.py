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

DIRECT = "direct"
"""What a program is compiled for by default: ranks that map each other's memory; or NVSHMEM."""


class Heap(Protocol):
    """One allocation of the same size on every rank, which all of them can write.

    memory   the own one, uint8 [bytes], zero at first on all ranks when the call that made it
             returns
    deltas   by how many bytes the memory of each rank lies behind the own one, in the address
             space of this process or its GPU; 0 for the own, and for far ones
    far      the ranks whose memory has no address here, because only a network lies between

    It lasts as long as somebody refers to it, here or on another rank.
    """

    memory: torch.Tensor
    deltas: tuple[int, ...]
    far: tuple[int, ...]

    def enter(self, module: int) -> None:
        """Let the kernels of a loaded module, a CUmodule, reach far ranks."""
        ...


def open_heap(size: int, device: torch.device, group: Group, by: str = DIRECT) -> Heap:
    """The heap of `size` bytes of all ranks of a group; each of them has to call this.

    Threads of several processes share memory of the host's; GPUs of one host map each other's
    memory; those of several hosts need NVSHMEM, which is also taken on one host for programs that
    were compiled for it (`by`), or by $MPKIR_TRANSPORT=nvshmem. Raises MpkirError where that
    cannot be had, or where ranks are far and the program was not compiled for it.
    """
    if device.type == "cpu":
        from mpkir.runtime.ranks.shared_memory import SharedMemory

        return SharedMemory(size, group)
    check_distinct(group, str(torch.cuda.get_device_properties(device).uuid))
    usual = SYMMETRIC if group.is_one_host and by == DIRECT else NVSHMEM
    chosen = os.environ.get("MPKIR_TRANSPORT") or usual
    if chosen == SYMMETRIC:
        from mpkir.runtime.ranks.symmetric_memory import SymmetricMemory

        return SymmetricMemory(size, device, group)
    if chosen == NVSHMEM:
        from mpkir.runtime.ranks.nvshmem import Nvshmem

        heap = Nvshmem(size, device, group)
        if heap.far and by == DIRECT:
            raise MpkirError(
                f"only a network connects this rank's GPU to the memory of "
                f"{', '.join(str(group.members[rank]) for rank in heap.far)}, and the program was "
                "compiled for ranks that map each other's memory",
                hint='compile it again with --transport nvshmem, or for "h200{transport=nvshmem}"',
            )
        return heap
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
