"""What a program of several ranks has in its heap, and what its binary knows of the others."""

from __future__ import annotations

import torch

from mpkir.runtime.buffers import memory_dtype
from mpkir.runtime.manifest import Buffer, Manifest
from mpkir.runtime.ranks.group import Group
from mpkir.runtime.ranks.layout import layout_of
from mpkir.runtime.ranks.peers import Peers
from mpkir.runtime.ranks.transport import open_heap


class PeerMemory:
    """The exchange buffers and counters of a program, mapped by all ranks of a group.

    counters   int32 [events], on the program's device, zero at first
    """

    def __init__(self, manifest: Manifest, device: torch.device, group: Group) -> None:
        self.group = group
        self._layout = layout_of(manifest)
        self._heap = open_heap(self._layout.bytes, device, group)
        events = len(manifest.events)
        self._first_peer_event = events - manifest.peer_events
        self.counters = self._heap.memory[: 4 * max(1, events)].view(torch.int32)

    def buffer(self, buffer: Buffer) -> torch.Tensor:
        """The memory of an exchange buffer in the own heap."""
        dtype = memory_dtype(buffer)
        count = torch.Size(buffer.shape).numel()
        first = self._layout.buffers[buffer.name]
        part = self._heap.memory[first : first + count * dtype.itemsize]
        return part.view(dtype).view(buffer.shape)

    @property
    def peers(self) -> Peers:
        """The content of the binary's variable `peers.PEERS`."""
        result = Peers(self.group.rank, self.group.ranks, self._first_peer_event)
        for rank, delta in enumerate(self._heap.deltas):
            result.delta[rank] = delta
        return result
