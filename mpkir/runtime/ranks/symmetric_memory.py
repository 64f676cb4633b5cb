"""A heap of GPUs of one host that map each other's memory, by torch's symmetric memory."""

from __future__ import annotations

import os

import torch

from mpkir.errors import MpkirError
from mpkir.runtime.ranks.group import Group


class SymmetricMemory:
    """Memory of `size` bytes on the GPU of each rank of a group; see `Heap`.

    No multicast: ordinary stores to the addresses at which a GPU sees its peers' memory. Raises
    MpkirError if a GPU cannot reach another's memory.
    """

    far: tuple[int, ...] = ()

    def __init__(self, size: int, device: torch.device, group: Group) -> None:
        import torch.distributed._symmetric_memory as symmetric

        os.environ.setdefault("TORCH_SYMM_MEM_DISABLE_MULTICAST", "1")
        try:
            with torch.cuda.device(device):
                self.memory = symmetric.empty(size, dtype=torch.uint8, device=device)
                self._handle = symmetric.rendezvous(self.memory, group.process_group)
                self.memory.zero_()
                torch.cuda.synchronize(device)
        except RuntimeError as error:
            raise group.blame(
                MpkirError(
                    f"the GPUs cannot map each other's memory ({_first_line(error)})",
                    hint="every rank needs a GPU of its own that reaches the others' directly "
                    "(`nvidia-smi topo -p2p r`)",
                )
            ) from error
        begins = [int(begin) for begin in self._handle.buffer_ptrs]
        own = begins[group.rank]
        # The tensor may lie behind the begin of what was exchanged, by the same on all ranks.
        self.deltas = tuple(begin - own for begin in begins)
        group.barrier()

    def enter(self, module: int) -> None:
        """Nothing: every rank's memory has an address."""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
