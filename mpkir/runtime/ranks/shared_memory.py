"""A heap of ranks that are processes on one host: each maps the memory of all.

The memory is an anonymous file (memfd), which the others open through /proc. It has no name
anywhere, so nothing is left behind however a rank ends: the kernel frees it with its last user.
"""

from __future__ import annotations

import ctypes
import mmap
import os

import torch

from mpkir.errors import MpkirError
from mpkir.runtime.ranks.group import Group


class SharedMemory:
    """Memory of `size` bytes on each rank of a group; see `Heap`.

    Raises MpkirError if a rank is on another host, or hides its memory.
    """

    far: tuple[int, ...] = ()

    def __init__(self, size: int, group: Group) -> None:
        if not group.is_one_host:
            raise MpkirError(
                "ranks on several hosts share no memory",
                hint="start all ranks of a program for the CPU on one host",
            )
        own = os.memfd_create(f"mpkir-rank-{group.rank}", os.MFD_CLOEXEC)
        try:
            os.ftruncate(own, size)
            # Whoever opens it holds it; until all have, this process must not close it.
            files = [
                text.decode() for text in group.gather(f"/proc/{os.getpid()}/fd/{own}".encode())
            ]
            self._maps = [_mapped(file, size, rank) for rank, file in enumerate(files)]
            group.barrier()
        finally:
            os.close(own)
        # The maps last as long as this, and the memory as long as the last rank's map.
        begins = [ctypes.addressof(ctypes.c_char.from_buffer(mapped)) for mapped in self._maps]
        self.memory = torch.frombuffer(self._maps[group.rank], dtype=torch.uint8)
        self.deltas = tuple(begin - begins[group.rank] for begin in begins)

    def enter(self, module: int) -> None:
        """Nothing: every rank's memory has an address."""


def _mapped(file: str, size: int, rank: int) -> mmap.mmap:
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise MpkirError(
            f"the memory of rank {rank} cannot be opened ({error.strerror})",
            where=file,
            hint="start all ranks as one user and, in containers, in one of them",
        ) from error
    try:
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)
