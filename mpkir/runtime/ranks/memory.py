"""What a program of several ranks has in its heap, and what its binary knows of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from mpkir.runtime.buffers import memory_dtype
from mpkir.runtime.manifest import Buffer, Manifest
from mpkir.runtime.ranks.far import FAR, Far
from mpkir.runtime.ranks.group import Group
from mpkir.runtime.ranks.layout import layout_of, may_be_far
from mpkir.runtime.ranks.peers import PEERS, Peers
from mpkir.runtime.ranks.transport import open_heap


class Binary(Protocol):
    """A loaded module of a GPU's; `handle` is its CUmodule."""

    @property
    def handle(self) -> int: ...

    def write_global(self, name: str, data: bytes) -> None:
        """Fill a variable."""
        ...


class PeerMemory:
    """The exchange buffers and counters of a program, mapped by all ranks of a group.

    counters   int32 [events], on the program's device, zero at first
    """

    def __init__(self, manifest: Manifest, device: torch.device, group: Group) -> None:
        self.group = group
        self._layout = layout_of(manifest)
        self._heap = open_heap(self._layout.bytes, device, group, manifest.target.transport)
        events = len(manifest.events)
        self._peer_events = manifest.peer_events
        self._first_peer_event = events - manifest.peer_events
        self.counters = self._heap.memory[: 4 * max(1, events)].view(torch.int32)
        self._may_be_far = may_be_far(manifest)

    def buffer(self, buffer: Buffer) -> torch.Tensor:
        """The memory of an exchange buffer in the own heap."""
        dtype = memory_dtype(buffer)
        count = torch.Size(buffer.shape).numel()
        first = self._layout.buffers[buffer.name]
        part = self._heap.memory[first : first + count * dtype.itemsize]
        return part.view(dtype).view(buffer.shape)

    def arrivals(self) -> torch.Tensor:
        """How often each event has been signalled, as this rank knows; int32 [events], a copy."""
        result = self.counters.clone()
        if self._may_be_far:
            told = self._heap.memory[self._layout.told :].view(torch.int32)
            rows = told.view(self.group.ranks, self._peer_events)  # zero, but of far ranks
            first = self._first_peer_event
            result[first : first + self._peer_events] += rows.sum(0, dtype=torch.int32)
        return result

    @property
    def peers(self) -> Peers:
        """The content of the binary's variable `peers.PEERS`."""
        result = Peers(self.group.rank, self.group.ranks, self._first_peer_event)
        for rank, delta in enumerate(self._heap.deltas):
            result.delta[rank] = delta
        return result

    def enter(self, binary: Binary, arrivals: Sequence[int]) -> None:
        """Let a loaded binary know of the others, before its first launch.

        arrivals: at each event in a step, of all ranks
        """
        binary.write_global(PEERS, bytes(self.peers))
        if self._may_be_far:
            self._heap.enter(binary.handle)
            binary.write_global(FAR, bytes(self._far(arrivals)))

    def _far(self, arrivals: Sequence[int]) -> Far:
        first, device = self._first_peer_event, self._heap.memory.device
        steps = [int(count) // self.group.ranks for count in arrivals[first:]]
        self._steps = torch.tensor(steps or [1], dtype=torch.int32, device=device)
        self._own = torch.zeros(len(steps) or 1, dtype=torch.int64, device=device)
        return Far(
            sum(1 << rank for rank in self._heap.far),
            len(steps),
            self.counters[first:].data_ptr() if steps else 0,
            self._own.data_ptr(),
            self._steps.data_ptr(),
            self._heap.memory.data_ptr() + self._layout.told,
        )
