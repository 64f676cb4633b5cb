"""Hand-off by flags, played: every element carries the step that wrote it, and waiters look.

A waiter goes on when all elements that it looks at carry the tag it wants: those that it reads of
scratch buffers that the signallers of its counter write. Whose tag it is cannot be told; but what
another device has written is not seen to have come.
"""

from __future__ import annotations

import numpy as np

from mpkir.backends.interpreter.atoms import Atoms, Ints, Touched
from mpkir.backends.interpreter.schedule import PlannedTask, Schedule
from mpkir.dialects.task import BufferKind, buffer_of


class Tags:
    """The tags of one run."""

    def __init__(self, schedule: Schedule, atoms: Atoms, touched: dict[int, Touched]) -> None:
        self._tag = np.full(len(atoms.buffers), -1)
        self._writer = np.full(len(atoms.buffers), -1)
        self._device = np.full(len(atoms.buffers), -1)
        names = np.array(atoms.buffers)
        tasks = [planned for worker in schedule.workers for planned in worker]
        carried: dict[int, set[str]] = {}
        for planned in tasks:
            buffers = map(buffer_of, planned.family.op.writes)
            scratch = {b.sym.data for b in buffers if b.kind.data is BufferKind.SCRATCH}
            for counter in planned.marks:
                carried.setdefault(counter, set()).update(scratch)
        self._looked: dict[tuple[int, int], Ints] = {}
        for planned in tasks:
            reads = touched[planned.order].reads
            for counter, _ in planned.looks:
                inside = np.isin(names[reads], list(carried.get(counter, ())))
                self._looked[planned.order, counter] = reads[inside]

    def waits(self, planned: PlannedTask, step: int) -> bool:
        """Whether a task still looks for tags."""
        for counter, lag in planned.looks:
            if step < lag:
                continue
            atoms = self._looked[planned.order, counter]
            here = self._device[atoms] == planned.device
            if not (here & (self._tag[atoms] == step - lag)).all():
                return True
        return False

    def seen(self, planned: PlannedTask, step: int) -> tuple[Ints, set[tuple[int, int]]]:
        """The atoms that a task has looked at, and who wrote them: (order, step) of tasks."""
        looked = [
            (self._looked[planned.order, counter], step - lag)
            for counter, lag in planned.looks
            if step >= lag
        ]
        writers = {(int(order), at) for atoms, at in looked for order in self._writer[atoms]}
        none = np.empty(0, np.int32)
        return np.unique(np.concatenate([none, *(atoms for atoms, _ in looked)])), writers

    def written(self, planned: PlannedTask, atoms: Ints, step: int) -> None:
        """A task has written these atoms."""
        self._tag[atoms] = step
        self._writer[atoms] = planned.order
        self._device[atoms] = planned.device
