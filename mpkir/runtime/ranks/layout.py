"""Where the exchange buffers and the counters of a program lie in a heap: alike on every rank."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from mpkir.runtime.manifest import Manifest

ALIGNMENT = 256
"""Bytes; what lies in a heap begins at a multiple of it."""


@dataclass(frozen=True)
class HeapLayout:
    """Offsets in bytes from the heap's first; the counters, uint32 each, lie at 0.

    buffers   of the exchange buffers, by name
    bytes     of the whole heap
    """

    buffers: dict[str, int]
    bytes: int


def layout_of(manifest: Manifest) -> HeapLayout:
    """The heap of a program."""
    end = _up(4 * max(1, len(manifest.events)))
    offsets: dict[str, int] = {}
    for buffer in manifest.buffers:
        if buffer.exchange:
            offsets[buffer.name] = end
            end = _up(end + buffer.element_bytes * prod(buffer.shape))
    return HeapLayout(offsets, end)


def _up(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
