"""Whose flagged elements no single reader needs to see all of: readers who do together.

Who knows all of them done knows the task done that wrote the elements, and what it knew.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mpkir.analysis.families import Family, Ints
from mpkir.analysis.flag_closure import seen_in_parts
from mpkir.analysis.flag_edges import FlagEdge
from mpkir.analysis.schedule import Schedule


@dataclass
class SeenInParts:
    """Tasks of whose flagged elements some readers see all together."""

    readers: dict[int, list[Ints]] = field(default_factory=dict[int, list[Ints]])
    """For each such task: they, in each way that is known."""
    parts_of: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    """For each of those readers such tasks."""
    everywhere: set[int] = field(default_factory=set[int])
    """Those whose elements are in every rank's memory: of all ranks."""
    together: set[int] = field(default_factory=set[int])
    """Those of which the readers of all ranks see all, but not those of one."""


def seen_in_parts_of(schedule: Schedule) -> SeenInParts:
    """All of a schedule's."""
    found = SeenInParts()
    by_writer: dict[Family, list[FlagEdge]] = {}
    for flag in schedule.flags:
        by_writer.setdefault(flag.earlier, []).append(flag)
    for family, all_flags in by_writer.items():
        flags = [flag for flag in all_flags if not flag.groups.whole.all()]
        if not flags:
            continue
        begin = schedule.tasks_of(family).start
        on_one = [flag for flag in flags if not flag.is_scattered]
        across = [flag for flag in on_one if flag.crosses_ranks]
        found.everywhere |= set((np.flatnonzero(seen_in_parts(family, across)) + begin).tolist())
        seen = seen_in_parts(family, flags)
        together = seen & ~seen_in_parts(family, on_one)
        found.together |= set((np.flatnonzero(together) + begin).tolist())
        ways = [(flags, seen)]
        if not any(flag.crosses_ranks or flag.is_scattered for flag in flags):
            # The readers of one family may be done long before those of another.
            by_reader: dict[Family, list[FlagEdge]] = {}
            for flag in flags:
                by_reader.setdefault(flag.later, []).append(flag)
            alone = [(each, seen_in_parts(family, each)) for each in by_reader.values()]
            ways = [*alone, *ways] if len(alone) > 1 else ways
        for some, enough in ways:
            for task in np.flatnonzero(enough).tolist():
                each = np.unique(np.concatenate([_readers(schedule, f, task) for f in some]))
                found.readers.setdefault(begin + task, []).append(each)
                for reader in each.tolist():
                    found.parts_of.setdefault(reader, []).append(begin + task)
    return found


def _readers(schedule: Schedule, flag: FlagEdge, task: int) -> Ints:
    """The tasks that read something that a task of the edge's earlier family writes."""
    groups = flag.groups
    mine = np.isin(groups.target_group, groups.source_group[groups.source == task])
    return groups.target[mine] + schedule.tasks_of(flag.later).start
