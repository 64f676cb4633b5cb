"""One launch, played: a worker that may go on runs its next task, until all steps are done."""

from __future__ import annotations

import random

import numpy as np

from mpkir.backends.interpreter.atoms import Atoms, Touched
from mpkir.backends.interpreter.kernels import Scalars
from mpkir.backends.interpreter.races import RaceDetector
from mpkir.backends.interpreter.schedule import PlannedTask, Schedule
from mpkir.errors import MpkirError


class Play:
    """A launch of `steps` steps. `atoms` turns the race detector on; `scratch` names buffers no
    step begins with."""

    def __init__(
        self,
        schedule: Schedule,
        *,
        position: int,
        tokens: int,
        steps: int,
        seed: int,
        eager: bool,
        atoms: Atoms | None,
        scratch: frozenset[str],
    ):
        self._schedule = schedule
        self._position, self._tokens = position, tokens
        self._random = random.Random(seed)
        self._eager = eager
        self._scratch = scratch
        self._stop_at = steps
        workers = len(schedule.workers)
        self._step = [0] * workers
        self._next = [0] * workers
        self._seen = [0] * len(schedule.arrivals)
        self._signalled = np.zeros((steps, len(schedule.arrivals)), np.int32)
        self._blocked: dict[int, list[int]] = {}
        self._ready: list[int] = []
        self._detector = None if atoms is None else RaceDetector(atoms, workers, self._describe)
        self._touched: dict[int, Touched] = {}
        if atoms is not None:
            self._touched = {
                planned.order: atoms.touched(planned.family, planned.index)
                for worker in schedule.workers
                for planned in worker
            }

    @property
    def steps_done(self) -> int:
        return self._stop_at

    def run(self) -> None:
        """Play to the end. MpkirError on deadlock, race, early firing, or a task after the stop."""
        for worker in range(len(self._schedule.workers)):
            self._enqueue(worker)
        while self._ready:
            worker = self._pick()
            self._run_next(worker)
            self._advance(worker)
            self._enqueue(worker)
        self._check_finished()
        if self._detector is not None:
            name = self._detector.unwritten(self._scratch)
            if name is not None:
                raise MpkirError(f"an element of buffer '{name}' is read that no task has written")

    def _task(self, worker: int) -> PlannedTask:
        return self._schedule.workers[worker][self._next[worker]]

    def _pick(self) -> int:
        """Take a worker out of the ready ones."""
        if self._eager:
            at = max(
                range(len(self._ready)),
                key=lambda i: (self._step[self._ready[i]], self._task(self._ready[i]).order),
            )
        else:
            at = self._random.randrange(len(self._ready))
        self._ready[at], self._ready[-1] = self._ready[-1], self._ready[at]
        return self._ready.pop()

    def _enqueue(self, worker: int) -> None:
        """Put a worker where it belongs: ready, blocked on a counter, or done."""
        if self._step[worker] >= self._stop_at or not self._schedule.workers[worker]:
            return
        counter = self._blocking(worker)
        if counter is None:
            self._ready.append(worker)
        else:
            self._blocked.setdefault(counter, []).append(worker)

    def _blocking(self, worker: int) -> int | None:
        """The first counter that the worker's next task still waits for."""
        step = self._step[worker]
        for counter, lag in self._task(worker).waits:
            if self._seen[counter] < self._schedule.arrivals[counter] * (step + 1 - lag):
                return counter
        return None

    def _run_next(self, worker: int) -> None:
        planned, step = self._task(worker), self._step[worker]
        for counter, lag in planned.waits:
            self._acquire(worker, counter, step - lag)
        if self._detector is not None:
            self._detector.access(worker, self._touched[planned.order])
        scalars = Scalars(self._position + step * self._tokens)
        planned.family.run(planned.index, scalars)
        if scalars.stop:
            self._stop_after(step, planned)
        for counter in planned.signals:
            self._signal(worker, counter, step)

    def _acquire(self, worker: int, counter: int, epoch: int) -> None:
        if epoch < 0:
            return
        if self._signalled[epoch, counter] < self._schedule.arrivals[counter]:
            raise MpkirError(
                f"event {self._schedule.counters[counter]} fires too early for step {epoch}: "
                "signals of a later step are counted among its arrivals",
                where=self._where(worker),
            )
        if self._detector is not None:
            self._detector.wait(worker, counter, epoch)

    def _signal(self, worker: int, counter: int, step: int) -> None:
        self._seen[counter] += 1
        self._signalled[step, counter] += 1
        if self._detector is not None:
            self._detector.signal(worker, counter, step)
        for blocked in self._blocked.pop(counter, ()):
            self._enqueue(blocked)

    def _advance(self, worker: int) -> None:
        self._next[worker] += 1
        if self._next[worker] < len(self._schedule.workers[worker]):
            return
        self._next[worker] = 0
        self._step[worker] += 1
        slowest = min(self._step[w] for w, tasks in enumerate(self._schedule.workers) if tasks)
        if self._detector is not None and self._step[worker] == slowest:
            self._detector.forget(slowest - 1)

    def _stop_after(self, step: int, planned: PlannedTask) -> None:
        self._stop_at = min(self._stop_at, step + 1)
        for worker, at in enumerate(self._step):
            if at > self._stop_at or (at == self._stop_at and self._next[worker] > 0):
                raise MpkirError(
                    f"{planned.label} stops the loop after step {step}, but worker {worker} has "
                    f"run tasks of step {self._stop_at} already",
                    hint="let the first tasks of a step wait, with lag 1, for the end of the last",
                )
        self._ready = [w for w in self._ready if self._step[w] < self._stop_at]

    def _check_finished(self) -> None:
        stuck = [
            worker
            for worker, tasks in enumerate(self._schedule.workers)
            if tasks and self._step[worker] < self._stop_at
        ]
        if not stuck:
            return
        shown = "; ".join(self._why_blocked(worker) for worker in stuck[:4])
        more = f"; and {len(stuck) - 4} more" if len(stuck) > 4 else ""
        raise MpkirError(f"deadlock, {len(stuck)} workers wait forever: {shown}{more}")

    def _why_blocked(self, worker: int) -> str:
        counter = self._blocking(worker)
        assert counter is not None
        lag = dict(self._task(worker).waits)[counter]
        wanted = self._schedule.arrivals[counter] * (self._step[worker] + 1 - lag)
        return (
            f"{self._where(worker)} has seen {self._seen[counter]} of {wanted} arrivals "
            f"of event {self._schedule.counters[counter]}"
        )

    def _where(self, worker: int) -> str:
        return f"{self._task(worker).label} of step {self._step[worker]} on worker {worker}"

    def _describe(self, worker: int, count: int) -> str:
        """Name the `count`-th task (from 1) that a worker runs in this launch."""
        tasks = self._schedule.workers[worker]
        step, at = divmod(count - 1, len(tasks))
        return f"{tasks[at].label} of step {step} on worker {worker}"
