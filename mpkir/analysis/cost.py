"""What one task takes: bytes, from the regions it touches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xdsl.dialects.builtin import FixedBitwidthType, MemRefType

from mpkir.analysis.families import Access, Family, Ints
from mpkir.analysis.regions import boxes_of
from mpkir.dialects import task


@dataclass(frozen=True, eq=False)
class FamilyCost:
    """Of each task of a family; arrays of [tasks]."""

    weights: Ints
    """Bytes of weights read: from DRAM, once a step."""
    others: Ints
    """Bytes of states, inputs and activations read."""
    written: Ints
    """Bytes written."""


def access_bytes(access: Access, family: Family) -> Ints:
    """Bytes of the buffer that each task touches, cut at its end; [tasks]."""
    assert isinstance(access.buffer.result.type, MemRefType)
    element = access.buffer.result.type.get_element_type()
    bits = element.bitwidth if isinstance(element, FixedBitwidthType) else 64
    boxes = boxes_of(access, family.coordinates)
    elements = np.bincount(
        boxes.tasks, (boxes.high - boxes.low).prod(axis=1), minlength=family.size
    )
    return (elements.astype(np.int64) * bits + 7) // 8


def cost_of(family: Family) -> FamilyCost:
    """The cost of a family's tasks."""
    none = np.zeros(family.size, np.int64)
    weights, others, written = none.copy(), none.copy(), none.copy()
    for access in family.accesses:
        size = access_bytes(access, family)
        if access.is_write:
            written += size
        elif access.buffer.kind.data is task.BufferKind.WEIGHT:
            weights += size
        else:
            others += size
    return FamilyCost(weights, others, written)
