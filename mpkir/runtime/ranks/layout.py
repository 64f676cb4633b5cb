"""Where the exchange buffers and the counters of a program lie in a heap: alike on every rank."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from mpkir.runtime.manifest import Manifest
from mpkir.runtime.ranks.transport import NVSHMEM

ALIGNMENT = 256
"""Bytes; what lies in a heap begins at a multiple of it."""


@dataclass(frozen=True)
class HeapLayout:
    """Offsets in bytes from the heap's first; the counters, uint32 each, lie at 0.

    buffers   of the exchange buffers, by name
    bytes     of the whole heap
    told      of what far ranks tell of the peers' events, uint32 [ranks, events]: behind all else
    """

    buffers: dict[str, int]
    bytes: int
    told: int


def layout_of(manifest: Manifest) -> HeapLayout:
    """The heap of a program."""
    end = _up(4 * max(1, len(manifest.events)))
    offsets: dict[str, int] = {}
    for buffer in manifest.buffers:
        if buffer.exchange:
            offsets[buffer.name] = end
            end = _up(end + buffer.element_bytes * prod(buffer.shape))
    told = 4 * manifest.ranks * manifest.peer_events if may_be_far(manifest) else 0
    return HeapLayout(offsets, end + told, end)


def may_be_far(manifest: Manifest) -> bool:
    """Whether the program was compiled for ranks that only a network connects, too."""
    return manifest.target.transport == NVSHMEM


def _up(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
