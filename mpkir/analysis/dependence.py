"""Which families must be ordered because their tasks touch the same elements.

Running the grids in module order is the meaning of a program. Two tasks of different families
conflict if they touch a common element and one of them writes it. Pairs that writes in between
order already are left out: whoever touches an element before it is written again is ordered before
the task that writes it, and this one before whoever touches it later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mpkir.analysis.families import Access, Family, Ints, crosses_ranks, elements_among_all
from mpkir.analysis.live_pairs import live_pairs
from mpkir.analysis.regions import Boxes, boxes_of, common_shape, distinct, overlapping, refine
from mpkir.dialects import task

Mask: TypeAlias = npt.NDArray[np.bool_]
"""Whether each element of a buffer is meant, in the common shape of its accesses."""


class Hazard(Flag):
    """Why two tasks conflict: what the later one does after what the earlier one did."""

    READ_AFTER_WRITE = auto()
    WRITE_AFTER_READ = auto()
    WRITE_AFTER_WRITE = auto()


@dataclass(frozen=True, eq=False)
class Touch:
    """One access of a family in the shape that all accesses of its buffer are compared in."""

    family: Family
    access: Access
    shape: tuple[int, ...]
    boxes: Boxes
    low: Ints
    """Distinct boxes, [boxes, rank]."""
    high: Ints
    box: Ints
    """For each row of `boxes` its distinct box."""

    def slices(self) -> Iterator[tuple[slice, ...]]:
        """The distinct boxes as indices of an array of `shape`."""
        for low, high in zip(self.low.tolist(), self.high.tolist(), strict=True):
            yield tuple(slice(a, b) for a, b in zip(low, high, strict=True))


@dataclass(frozen=True, eq=False)
class Overlap:
    """Pairs of distinct boxes of two accesses that share an element."""

    earlier: Touch
    later: Touch
    hazard: Hazard
    earlier_box: Ints
    later_box: Ints

    @property
    def crosses_ranks(self) -> bool:
        """Whether the tasks of all ranks conflict, each with each; else those of one."""
        return crosses_ranks(self.earlier.access, self.later.access)


@dataclass(frozen=True, eq=False)
class Conflict:
    """An earlier and a later family with conflicting tasks."""

    earlier: Family
    later: Family
    overlaps: list[Overlap] = field(default_factory=list[Overlap])

    @property
    def hazards(self) -> Hazard:
        """All reasons together."""
        result = Hazard(0)
        for overlap in self.overlaps:
            result |= overlap.hazard
        return result


Touches: TypeAlias = Mapping[task.BufferOp, Sequence["Touch"]]
"""All accesses of every buffer that somebody writes, in family order."""


def touches_of(families: Sequence[Family]) -> Touches:
    """The accesses of families, those of one buffer in one shape."""
    grouped: dict[task.BufferOp, list[tuple[Family, Access]]] = {}
    for family in families:
        for access in family.accesses:
            grouped.setdefault(access.buffer, []).append((family, access))
    return {
        buffer: touches_of_buffer(buffer, accesses)
        for buffer, accesses in grouped.items()
        if any(access.is_write for _, access in accesses)
    }


def touches_of_buffer(
    buffer: task.BufferOp, accesses: Sequence[tuple[Family, Access]]
) -> list[Touch]:
    """All accesses of one buffer."""
    shape = common_shape((a for _, a in accesses), elements_among_all(buffer))
    result: list[Touch] = []
    for family, access in accesses:
        boxes = refine(boxes_of(access, family.coordinates), access, shape)
        result.append(Touch(family, access, shape, boxes, *distinct(boxes)))
    return result


def hazard_of(earlier: Access, later: Access) -> Hazard:
    """What orders two accesses of one buffer; nothing orders two reads."""
    match earlier.is_write, later.is_write:
        case True, False:
            return Hazard.READ_AFTER_WRITE
        case False, True:
            return Hazard.WRITE_AFTER_READ
        case True, True:
            return Hazard.WRITE_AFTER_WRITE
        case _:
            return Hazard(0)


def overlap_of(earlier: Touch, later: Touch) -> Overlap | None:
    """The conflicting boxes of two accesses of one buffer, if there are any."""
    hazard = hazard_of(earlier.access, later.access)
    if not hazard:
        return None
    a, b = overlapping(earlier.low, earlier.high, later.low, later.high)
    return Overlap(earlier, later, hazard, a, b) if len(a) else None


def conflicts_of(touches: Touches) -> list[Conflict]:
    """Conflicting pairs of different families within a step, in order of the later one."""
    found: dict[tuple[int, int], Conflict] = {}
    for each in touches.values():
        groups = _by_family(each)
        shape = each[0].shape if len(groups) > 2 else ()
        sets = [[(touch.access, elements_touched(touch, shape)) for touch in g] for g in groups]
        for (i, one), (j, other) in live_pairs(sets):
            if (overlap := overlap_of(groups[i][one], groups[j][other])) is not None:
                earlier, later = overlap.earlier.family, overlap.later.family
                conflict = Conflict(earlier, later)
                found.setdefault((later.number, earlier.number), conflict).overlaps.append(overlap)
    return [found[key] for key in sorted(found)]


@dataclass(frozen=True, eq=False)
class MaskedElements:
    """A set of elements as a mask of a buffer."""

    mask: Mask

    def __bool__(self) -> bool:
        return bool(self.mask.any())

    def meets(self, other: MaskedElements) -> bool:
        """Whether there is a common element."""
        return bool((self.mask & other.mask).any())

    def without(self, other: MaskedElements) -> MaskedElements:
        """The elements that are not in another set."""
        return MaskedElements(self.mask & ~other.mask)


def elements_touched(touch: Touch, shape: tuple[int, ...]) -> MaskedElements:
    """The elements that a family touches; one element stands for all if there is no shape."""
    mask = np.zeros(shape, bool)
    for box in touch.slices() if shape else ():
        mask[box] = True
    return MaskedElements(mask if shape else ~mask)


def _by_family(touches: Sequence[Touch]) -> list[list[Touch]]:
    groups: dict[int, list[Touch]] = {}
    for touch in touches:
        groups.setdefault(touch.family.number, []).append(touch)
    return list(groups.values())


def covered(touch: Touch) -> int:
    """How many elements the boxes of an access cover; a lower bound where they overlap."""
    volumes = (touch.high - touch.low).prod(axis=1)
    if len(volumes) < 2:
        return int(volumes.sum())
    a, b = overlapping(touch.low, touch.high, touch.low, touch.high)
    alone = np.ones(len(volumes), bool)
    alone[np.maximum(a, b)[a != b]] = False
    return int(volumes[alone].sum())


def components(conflict: Conflict) -> tuple[Ints, Ints, int]:
    """Split two families into groups with no conflict across.

    Gives the group of each earlier task, of each later task, and the number of groups.

    Groups are numbered in the order of the later family's tasks. A task without any conflict has
    group -1.
    """
    earlier, later = conflict.earlier.size, conflict.later.size
    edges_a: list[Ints] = []
    edges_b: list[Ints] = []
    nodes = earlier + later
    involved = np.zeros(nodes, bool)
    for overlap in conflict.overlaps:
        base_a, base_b = nodes, nodes + len(overlap.earlier.low)
        nodes = base_b + len(overlap.later.low)
        used_a = np.isin(overlap.earlier.box, overlap.earlier_box)
        used_b = np.isin(overlap.later.box, overlap.later_box)
        tasks_a = overlap.earlier.boxes.tasks[used_a]
        tasks_b = overlap.later.boxes.tasks[used_b] + earlier
        involved[tasks_a] = involved[tasks_b] = True
        edges_a += [tasks_a, tasks_b, overlap.earlier_box + base_a]
        edges_b += [
            overlap.earlier.box[used_a] + base_a,
            overlap.later.box[used_b] + base_b,
            overlap.later_box + base_b,
        ]
    root = connected(nodes, np.concatenate(edges_a), np.concatenate(edges_b))
    root = root[: earlier + later]
    # Number the groups by their first task in the later family.
    seen, first = np.unique(root[earlier:][involved[earlier:]], return_index=True)
    number = np.full(nodes, -1, np.int64)
    number[seen[np.argsort(first)]] = np.arange(len(seen))
    group = np.where(involved, number[root], -1)
    return group[:earlier], group[earlier:], len(seen)


def connected(nodes: int, a: Ints, b: Ints) -> Ints:
    """The least node of each node's connected component, given edges a - b."""
    root = np.arange(nodes, dtype=np.int64)
    while True:
        least = np.minimum(root[a], root[b])
        before = root.copy()
        np.minimum.at(root, root[a], least)
        np.minimum.at(root, root[b], least)
        while not np.array_equal(root, shorter := root[root]):
            root = shorter
        if np.array_equal(before, root):
            return root
