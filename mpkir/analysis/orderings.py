"""Which families must be ordered, by which counters, from the regions that their tasks touch.

Two accesses are compared in closed form where that exists, so that time follows the number of
families; else their tasks' boxes are compared one by one (`mpkir.analysis.dependence`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeAlias

from mpkir.analysis.counters import Counters, counters_of
from mpkir.analysis.dependence import (
    Conflict,
    Hazard,
    Touch,
    elements_touched,
    hazard_of,
    overlap_of,
    touches_of_buffer,
)
from mpkir.analysis.element_sets import ElementSet, elements_of
from mpkir.analysis.families import Access, Family, crosses_ranks, elements_among_all
from mpkir.analysis.live_pairs import E, Place, live_pairs
from mpkir.analysis.regions import common_shape
from mpkir.analysis.relation import Relation, relation_of, union
from mpkir.analysis.task_counters import task_counters_of
from mpkir.analysis.task_pairs import pairs_of
from mpkir.dialects import task


class BufferAccesses:
    """The accesses of one buffer by families in their order; task by task only when asked for."""

    def __init__(self, buffer: task.BufferOp, given: Sequence[tuple[Family, Access]]) -> None:
        self.buffer = buffer
        self.given = given
        self.size = elements_among_all(buffer)

    @cached_property
    def touches(self) -> list[Touch]:
        """The boxes of all tasks."""
        return touches_of_buffer(self.buffer, self.given)

    @cached_property
    def groups(self) -> list[list[int]]:
        """The accesses of each family."""
        groups: dict[int, list[int]] = {}
        for number, (family, _) in enumerate(self.given):
            groups.setdefault(family.number, []).append(number)
        return list(groups.values())

    def pairs(self, steps: int) -> Iterator[tuple[int, int]]:
        """The pairs to be compared: within a step, or of an access and one in the step after it."""
        groups = self.groups * steps
        for (i, one), (j, other) in self._live_pairs(groups):
            if steps == 1 or i < len(self.groups) <= j:
                yield groups[i][one], groups[j][other]

    def _live_pairs(self, groups: list[list[int]]) -> Iterator[tuple[Place, Place]]:
        if len(groups) <= 2:
            # Nobody is between the two.
            something = ElementSet((((0,), (1,)),))
            return _live_pairs(groups, self.given, [something] * len(self.given))
        shape = common_shape((access for _, access in self.given), self.size)
        known: dict[_Form, ElementSet | None] = {}
        sets: list[ElementSet | None] = []
        for family, access in self.given:
            form = _form(family, access)
            if form not in known:
                known[form] = elements_of(access, family.op.grid, shape)
            sets.append(known[form])
        boxes = [each for each in sets if each is not None]
        if len(boxes) == len(sets):
            return _live_pairs(groups, self.given, boxes)
        masks = [elements_touched(touch, touch.shape) for touch in self.touches]
        return _live_pairs(groups, self.given, masks)


@dataclass(frozen=True, eq=False)
class Meeting:
    """Two accesses of a buffer by different families, or by families of consecutive steps."""

    accesses: BufferAccesses
    earlier: int
    later: int
    relation: Relation | None
    """The pairs of tasks that meet, where they have a closed form."""

    @property
    def hazard(self) -> Hazard:
        """What orders the two."""
        given = self.accesses.given
        return hazard_of(given[self.earlier][1], given[self.later][1])

    @property
    def crosses_ranks(self) -> bool:
        """Whether the tasks of all ranks meet, each with each; else those of one."""
        given = self.accesses.given
        return crosses_ranks(given[self.earlier][1], given[self.later][1])


@dataclass(frozen=True, eq=False)
class Ordering:
    """An earlier and a later family with conflicting tasks, and all the accesses that conflict."""

    earlier: Family
    later: Family
    meetings: tuple[Meeting, ...]

    @property
    def hazards(self) -> Hazard:
        """All reasons together."""
        result = Hazard(0)
        for meeting in self.meetings:
            result |= meeting.hazard
        return result

    @cached_property
    def relation(self) -> Relation | None:
        """All pairs of conflicting tasks, where they have a closed form."""
        relations = [m.relation for m in self.meetings if m.relation is not None]
        return union(relations) if len(relations) == len(self.meetings) else None

    @cached_property
    def conflict(self) -> Conflict:
        """The same as boxes of all tasks; work and size follow the number of tasks."""
        overlaps = (
            overlap_of(m.accesses.touches[m.earlier], m.accesses.touches[m.later])
            for m in self.meetings
        )
        return Conflict(self.earlier, self.later, [o for o in overlaps if o is not None])

    @property
    def pairs(self) -> int:
        """Number of pairs of conflicting tasks."""
        relation = self.relation
        return pairs_of(self.conflict) if relation is None else relation.pairs

    @property
    def counters(self) -> Counters:
        """The finest event tensor that affine maps allow."""
        relation = self.relation
        return task_counters_of(self.conflict) if relation is None else _counters_of(relation)


_counters_of = lru_cache(maxsize=1024)(counters_of)


def _live_pairs(
    groups: Sequence[Sequence[int]],
    given: Sequence[tuple[Family, Access]],
    sets: Sequence[E],
) -> Iterator[tuple[Place, Place]]:
    return live_pairs([[(given[n][1], sets[n]) for n in group] for group in groups])


_Form: TypeAlias = tuple[object, ...]


def _form(family: Family, access: Access) -> _Form:
    """What a relation depends on: equal in all layers of a model."""
    return family.op.grid, access.shape, access.strides, access.offset, access.box


def orderings_of(families: Sequence[Family]) -> list[Ordering]:
    """Pairs of families of a step with conflicts, in order of the later one."""
    return _orderings(families, 1)


def step_orderings_of(families: Sequence[Family]) -> list[Ordering]:
    """Pairs of families, the later one in the step after, with conflicts from step to step: all
    that no write in between, in either step, orders already.
    """
    return _orderings(families, 2)


def _orderings(families: Sequence[Family], steps: int) -> list[Ordering]:
    grouped: dict[task.BufferOp, list[tuple[Family, Access]]] = {}
    for family in families:
        for access in family.accesses:
            grouped.setdefault(access.buffer, []).append((family, access))
    relations: dict[tuple[_Form, _Form], Relation | None] = {}
    found: dict[tuple[int, int], list[Meeting]] = {}
    for buffer, given in grouped.items():
        if not any(access.is_write for _, access in given):
            continue
        accesses = BufferAccesses(buffer, given)
        for i, j in accesses.pairs(steps):
            (earlier, one), (later, other) = given[i], given[j]
            key = _form(earlier, one), _form(later, other)
            if key not in relations:
                relations[key] = relation_of(one, earlier.op.grid, other, later.op.grid)
            relation = relations[key]
            if relation is None:
                meets = overlap_of(accesses.touches[i], accesses.touches[j]) is not None
            else:
                meets = relation.pairs > 0
            if meets:
                meeting = Meeting(accesses, i, j, relation)
                found.setdefault((later.number, earlier.number), []).append(meeting)
    return [
        Ordering(families[earlier], families[later], tuple(found[later, earlier]))
        for later, earlier in sorted(found)
    ]
