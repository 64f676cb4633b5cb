"""What follows from flags that several readers have seen together.

A task has read all that it reads when it has written the last of its flagged elements. So whoever
comes after readers that together have looked at every element that a task flags in a buffer comes
after that task, though each of them has seen a part only (heads of a group, each merged by itself).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mpkir.analysis.dependence import touches_of_buffer
from mpkir.analysis.families import Access, Family
from mpkir.analysis.flag_edges import Bools, FlagEdge, is_flagged
from mpkir.dialects import task


@dataclass(frozen=True, eq=False)
class FamilyLink:
    """By what a family comes after an earlier one, beside flags."""

    earlier: int
    later: int
    from_each: bool
    """Each task of the later family waits for all of the earlier."""
    all_awaited: bool
    """Each task of the earlier family is waited for by some task of the later."""


@dataclass
class WholeFamilies:
    """Which families are over, each of them as a whole, before a family's tasks write.

    Facts are sufficient, not necessary; they are about one rank, so none follows from what ranks
    scatter.
    """

    families: Sequence[Family]
    links: Sequence[FamilyLink]
    flags: Sequence[FlagEdge]
    _masks: dict[task.BufferOp, dict[tuple[int, bool], Bools]] = field(
        default_factory=dict[task.BufferOp, dict[tuple[int, bool], Bools]]
    )

    def __post_init__(self) -> None:
        given: dict[task.BufferOp, list[tuple[Family, Access]]] = {}
        for family in self.families:
            for access in family.accesses:
                if is_flagged(access) and task.scattered(access.buffer) is None:
                    given.setdefault(access.buffer, []).append((family, access))
        for buffer, accesses in given.items():
            masks = self._masks[buffer] = {}
            for touch in touches_of_buffer(buffer, accesses):
                key = touch.family.number, touch.access.is_write
                mask = masks.setdefault(key, np.zeros(touch.shape, bool))
                for box in touch.slices():
                    mask[box] = True

    def before(self, family: int) -> set[int]:
        """The families of which every task of this one comes after all tasks."""
        known = {link.earlier for link in self.links if link.later == family and link.from_each}
        known |= {f.earlier.number for f in self.flags if f.later.number == family and _sees_all(f)}
        while True:
            more = set(self._implied(known)) - known
            if not more:
                return known
            known |= more

    def _implied(self, known: set[int]) -> Iterable[int]:
        """Families that are over when these are."""
        for link in self.links:
            if link.later in known and link.all_awaited:
                yield link.earlier
        for masks in self._masks.values():
            seen = [
                mask for (family, write), mask in masks.items() if family in known and not write
            ]
            if not seen:
                continue
            together = np.logical_or.reduce(seen)
            for (family, is_write), mask in masks.items():
                if is_write and bool(together[mask].all()):
                    yield family


def _sees_all(flag: FlagEdge) -> bool:
    """Whether each task of the later family sees all that every task of the earlier flags."""
    groups = flag.groups
    if flag.is_scattered or len(groups.target) < flag.later.size or not groups.whole.all():
        return False
    sources = np.bincount(groups.source_group, minlength=groups.count)
    return bool((sources == flag.earlier.size).all())


def seen_in_parts(family: Family, flags: Sequence[FlagEdge]) -> Bools:
    """For each task of a family whether its readers, all together, look at every element that it
    flags in some buffer.
    """
    result = np.zeros(family.size, bool)
    buffers = {flag.buffer: None for flag in flags if flag.earlier is family}
    for buffer in buffers:
        readers = {flag.later: None for flag in flags if flag.buffer is buffer}
        given = [
            (each, access)
            for each in (family, *readers)
            for access in each.accesses
            if access.buffer is buffer and access.is_write == (each is family)
        ]
        touches = touches_of_buffer(buffer, given)
        read = np.zeros(touches[0].shape, bool)
        for touch in touches:
            if not touch.access.is_write:
                for box in touch.slices():
                    read[box] = True
        for touch in touches:
            if touch.access.is_write:
                seen = np.array([read[box].all() for box in touch.slices()], bool)
                missed = touch.boxes.tasks[~seen[touch.box]]
                written = np.zeros(family.size, bool)
                written[touch.boxes.tasks] = True
                written[missed] = False
                result |= written
    return result
