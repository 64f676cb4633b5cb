"""Hand-off by flags, played: every element carries the step that wrote it, and waiters look.

A waiter goes on when all elements that it looks at carry the tag it wants: those that it reads of
scratch buffers that the signallers of its counter write, on its own rank: what ranks exchange is
handed over by flagged buffers or events only. Whose tag it is cannot be told. Of flagged buffers
every task looks at all that it reads, for the tag of its own step.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mpkir.backends.interpreter.atoms import Atoms, Ints, Touched
from mpkir.backends.interpreter.families import Family
from mpkir.backends.interpreter.schedule import PlannedTask, Schedule
from mpkir.dialects.task import BufferKind, buffer_of


def flagged_buffers(families: Iterable[Family]) -> frozenset[str]:
    """The names of the flagged buffers that some family touches."""
    return frozenset(
        buffer_of(value).sym.data
        for family in families
        for value in (*family.op.reads, *family.op.writes)
        if buffer_of(value).flagged is not None
    )


class Tags:
    """The tags of one run."""

    def __init__(self, schedule: Schedule, atoms: Atoms, touched: dict[int, Touched]) -> None:
        self._tag = np.full(len(atoms.buffers), -1)
        self._writer = np.full(len(atoms.buffers), -1)
        names = np.array(atoms.buffers)
        tasks = [planned for worker in schedule.workers for planned in worker]
        carried: dict[int, set[str]] = {}
        for planned in tasks:
            buffers = map(buffer_of, planned.family.op.writes)
            scratch = {
                b.sym.data
                for b in buffers
                if b.kind.data is BufferKind.SCRATCH and b.exchange is None
            }
            for counter in planned.marks:
                carried.setdefault(counter, set()).update(scratch)
        self._looked: dict[tuple[int, int], Ints] = {}
        self._polled: dict[int, Ints] = {}
        """Of each task what it reads of flagged buffers."""
        flagged = flagged_buffers(planned.family for planned in tasks)
        for planned in tasks:
            reads = touched[planned.order].reads
            self._polled[planned.order] = reads[np.isin(names[reads], list(flagged))]
            for counter, _ in planned.looks:
                inside = np.isin(names[reads], list(carried.get(counter, ())))
                self._looked[planned.order, counter] = reads[inside]

    def missing(self, planned: PlannedTask, step: int) -> int | None:
        """An atom whose tag a task still looks for, until somebody writes it; None: all came."""
        for counter, lag in planned.looks:
            if step < lag:
                continue
            atoms = self._looked[planned.order, counter]
            if len(absent := atoms[self._tag[atoms] != step - lag]):
                return int(absent[0])
        polled = self._polled[planned.order]
        absent = polled[self._tag[polled] != step]
        return int(absent[0]) if len(absent) else None

    def are_polled_by(self, planned: PlannedTask) -> bool:
        """Whether a task reads flagged buffers."""
        return len(self._polled[planned.order]) > 0

    def seen(self, planned: PlannedTask, step: int) -> tuple[Ints, set[tuple[int, int]]]:
        """The atoms that a task has looked at, and who wrote them: (order, step) of tasks, which
        are over here as soon as one element of theirs is seen.
        """
        looked = [
            (self._looked[planned.order, counter], step - lag)
            for counter, lag in planned.looks
            if step >= lag
        ]
        writers = {(int(order), at) for atoms, at in looked for order in self._writer[atoms]}
        polled = self._polled[planned.order]
        writers |= {(int(order), step) for order in np.unique(self._writer[polled])}
        none = np.empty(0, np.int32)
        return np.unique(np.concatenate([none, polled, *(atoms for atoms, _ in looked)])), writers

    def written(self, planned: PlannedTask, atoms: Ints, step: int) -> None:
        """A task has written these atoms."""
        self._tag[atoms] = step
        self._writer[atoms] = planned.order
