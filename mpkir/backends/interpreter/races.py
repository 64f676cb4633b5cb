"""Race detection by vector clocks: every access must be ordered after those that it conflicts with.

A worker's clock counts, for each worker, how many of its tasks have happened before. Program order
and events advance it; nothing else does, so that a race is found in any order of execution, right
numbers or not. A second clock counts whose writes are visible: a flag, which is data and not a
release, advances only the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from mpkir.backends.interpreter.atoms import Atoms, Ints, Touched
from mpkir.errors import MpkirError


class RaceDetector:
    """Watches one run.

    `describe(worker, count)` names the task that was that worker's `count`-th (from 1). `flags`:
    whether any hand-off is by flag; else both clocks are one.
    """

    def __init__(
        self,
        atoms: Atoms,
        workers: int,
        describe: Callable[[int, int], str],
        flags: bool = False,
    ):
        self._buffers = atoms.buffers
        self._describe = describe
        self._clocks = np.zeros((workers, workers), np.int32)
        self._visible = self._clocks.copy() if flags else self._clocks
        self._both = (self._clocks, self._visible) if flags else (self._clocks,)
        self._fired: dict[tuple[int, int], tuple[Ints, ...]] = {}
        self._marks: dict[tuple[int, int], Ints] = {}
        self._writer = np.zeros(len(atoms.buffers), np.int32)
        self._written = np.zeros(len(atoms.buffers), np.int32)
        self._read = np.zeros((len(atoms.buffers), workers), np.int32)

    def wait(self, worker: int, cell: int, epoch: int) -> None:
        """The worker has seen all signals of a cell's epoch."""
        if (fired := self._fired.get((cell, epoch))) is not None:
            for clocks, each in zip(self._both, fired, strict=True):
                np.maximum(clocks[worker], each, out=clocks[worker])

    def signal(self, worker: int, cell: int, epoch: int) -> None:
        """The worker signals for this epoch, after all that it has done."""
        now = tuple(clocks[worker] for clocks in self._both)
        if (fired := self._fired.get((cell, epoch))) is None:
            self._fired[cell, epoch] = tuple(clock.copy() for clock in now)
        else:
            for each, clock in zip(fired, now, strict=True):
                np.maximum(each, clock, out=each)

    def mark(self, worker: int, task: tuple[int, int]) -> None:
        """The worker's task (its order, its step) has written data that carry their tags."""
        self._marks[task] = self._clocks[worker].copy()

    def look(self, worker: int, tasks: Iterable[tuple[int, int]]) -> None:
        """The worker has seen the tags that these tasks have written."""
        for task in tasks:
            if task in self._marks:
                np.maximum(self._clocks[worker], self._marks[task], out=self._clocks[worker])

    def forget(self, before: int) -> None:
        """Nobody will wait for these epochs any more."""
        for key in [key for key in self._fired if key[1] < before]:
            del self._fired[key]

    def access(self, worker: int, touched: Touched, looked: Ints | None = None) -> None:
        """The worker's next task touches these atoms, of which it has seen the tags of `looked`.
        MpkirError where that is a race."""
        clock, visible = self._clocks[worker], self._visible[worker]
        clock[worker] += 1
        visible[worker] = clock[worker]
        unseen = touched.reads
        if looked is not None:
            unseen = unseen[~np.isin(unseen, looked)]
        for atoms, verb in ((unseen, "reads"), (touched.writes, "writes")):
            writers = self._writer[atoms]
            late = self._written[atoms] > visible[writers]
            if late.any():
                at = int(late.argmax())
                other = (int(writers[at]), int(self._written[atoms[at]]))
                self._report(atoms[at], other, "writes", worker, verb)
        late = self._read[touched.writes] > clock
        if late.any():
            at, reader = map(int, np.argwhere(late)[0])
            other = (reader, int(self._read[touched.writes[at], reader]))
            self._report(touched.writes[at], other, "reads", worker, "writes")
        self._read[touched.reads, worker] = clock[worker]
        self._writer[touched.writes] = worker
        self._written[touched.writes] = clock[worker]

    def unwritten(self, buffers: frozenset[str]) -> str | None:
        """The first of these buffers of which an element was read that nobody wrote."""
        read = self._read.any(axis=1) & (self._written == 0)
        found = [self._buffers[atom] for atom in np.flatnonzero(read)]
        return next((name for name in found if name in buffers), None)

    def _report(
        self, atom: int, other: tuple[int, int], other_verb: str, worker: int, verb: str
    ) -> None:
        this = self._describe(worker, int(self._clocks[worker, worker]))
        raise MpkirError(
            f"race on buffer '{self._buffers[atom]}': {self._describe(*other)} {other_verb} and "
            f"{this} {verb} the same elements, and nothing orders the two",
            hint="let one of them wait for an event that the other signals",
        )
