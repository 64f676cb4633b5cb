"""Race detection by vector clocks: every access must be ordered after those that it conflicts with.

A worker's clock counts, for each worker, how many of its tasks have happened before. Program order
and events advance it; nothing else does, so that a race is found in any order of execution, right
numbers or not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpkir.backends.interpreter.atoms import Atoms, Ints, Touched
from mpkir.errors import MpkirError


class RaceDetector:
    """Watches one run.

    `describe(worker, count)` names the task that was that worker's `count`-th (from 1).
    """

    def __init__(self, atoms: Atoms, workers: int, describe: Callable[[int, int], str]):
        self._buffers = atoms.buffers
        self._describe = describe
        self._clocks = np.zeros((workers, workers), np.int32)
        self._fired: dict[tuple[int, int], Ints] = {}
        self._writer = np.zeros(len(atoms.buffers), np.int32)
        self._written = np.zeros(len(atoms.buffers), np.int32)
        self._read = np.zeros((len(atoms.buffers), workers), np.int32)

    def wait(self, worker: int, counter: int, epoch: int) -> None:
        """The worker has seen all signals of a counter's epoch."""
        if (fired := self._fired.get((counter, epoch))) is not None:
            np.maximum(self._clocks[worker], fired, out=self._clocks[worker])

    def signal(self, worker: int, counter: int, epoch: int) -> None:
        """The worker signals for this epoch, after all that it has done."""
        clock = self._clocks[worker]
        if (fired := self._fired.get((counter, epoch))) is None:
            self._fired[counter, epoch] = clock.copy()
        else:
            np.maximum(fired, clock, out=fired)

    def forget(self, before: int) -> None:
        """Nobody will wait for these epochs any more."""
        for key in [key for key in self._fired if key[1] < before]:
            del self._fired[key]

    def access(self, worker: int, touched: Touched) -> None:
        """The worker's next task touches these atoms. MpkirError where that is a race."""
        clock = self._clocks[worker]
        clock[worker] += 1
        for atoms, verb in ((touched.reads, "reads"), (touched.writes, "writes")):
            writers = self._writer[atoms]
            late = self._written[atoms] > clock[writers]
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
