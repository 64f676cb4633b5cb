"""One launch, played: a worker that may go on runs its next task, until all steps are done."""

from __future__ import annotations

import random
from collections.abc import Callable

from mpkir.backends.interpreter.atoms import Atoms, Touched
from mpkir.backends.interpreter.flags import Tags, flagged_buffers
from mpkir.backends.interpreter.orders import Order, choose
from mpkir.backends.interpreter.races import RaceDetector
from mpkir.backends.interpreter.schedule import PlannedTask, Schedule
from mpkir.errors import MpkirError

_WAIT_FIRST = "let the first tasks of a step wait, with lag 1, for the end of the last"
Execute = Callable[[PlannedTask, int], bool]
"""Run a task in a step; whether it stops the loop."""


def uses_flags(schedule: Schedule) -> bool:
    """Whether some task looks at tags: of a hand-off by flag, or of a flagged buffer."""
    tasks = [planned for worker in schedule.workers for planned in worker]
    return any(planned.looks for planned in tasks) or bool(flagged_buffers(schedule.families))


class Play:
    """A launch of `steps` steps, in which `execute` runs tasks.

    `touched` gives each task's atoms by its order, where races are looked for or flags used;
    `scratch` names buffers no step begins with. `stop_any_time`: a task that may stop the loop
    might in any step, so none may run ahead of it.
    """

    def __init__(
        self,
        schedule: Schedule,
        execute: Execute,
        *,
        steps: int,
        seed: int,
        order: Order,
        atoms: Atoms | None,
        touched: dict[int, Touched],
        check_races: bool,
        scratch: frozenset[str],
        stop_any_time: bool = False,
    ):
        self._schedule = schedule
        self._execute = execute
        self._random = random.Random(seed)
        self._order: Order = order
        self._scratch = scratch
        self._stop_at = steps
        self._stop_any_time = stop_any_time
        workers = len(schedule.workers)
        self._step = [0] * workers
        self._next = [0] * workers
        self._seen = [0] * len(schedule.arrivals)
        self._signalled = [[0] * len(schedule.arrivals) for _ in range(steps)]
        self._blocked: dict[int, list[int]] = {}
        self._looking: dict[int, list[int]] = {}
        """Workers that wait for flags, by an atom that they miss."""
        self._ready: list[int] = []
        self._touched = touched
        flags = uses_flags(schedule)
        self._tags: Tags | None = None
        self._detector: RaceDetector | None = None
        if atoms is not None:
            self._tags = Tags(schedule, atoms, touched) if flags else None
            if check_races:
                self._detector = RaceDetector(atoms, workers, self._describe, flags)

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
        at = choose(
            self._order,
            self._ready,
            self._random,
            lambda worker: (self._step[worker], self._task(worker).order),
        )
        self._ready[at], self._ready[-1] = self._ready[-1], self._ready[at]
        return self._ready.pop()

    def _enqueue(self, worker: int) -> None:
        """Put a worker where it belongs: ready, blocked on a cell, looking for flags, or done."""
        if self._step[worker] >= self._stop_at or not self._schedule.workers[worker]:
            return
        cell = self._blocking(worker)
        if cell is not None:
            self._blocked.setdefault(cell, []).append(worker)
            return
        if self._tags is not None:
            atom = self._tags.missing(self._task(worker), self._step[worker])
            if atom is not None:
                self._looking.setdefault(atom, []).append(worker)
                return
        self._ready.append(worker)

    def _blocking(self, worker: int) -> int | None:
        """The first cell that the worker's next task still waits for."""
        return self._missing(self._task(worker), self._step[worker])

    def _missing(self, planned: PlannedTask, step: int) -> int | None:
        for cell, lag in planned.waits:
            if self._seen[cell] < self._schedule.arrivals[cell] * (step + 1 - lag):
                return cell
        return None

    def _run_next(self, worker: int) -> None:
        planned, step = self._task(worker), self._step[worker]
        for cell, lag in planned.waits:
            self._acquire(worker, cell, step - lag)
        if planned.fault is not None:
            raise MpkirError(planned.fault, where=self._where(worker))
        looked = None
        if self._tags is not None:
            looked, writers = self._tags.seen(planned, step)
            if self._detector is not None:
                self._detector.look(worker, writers)
        if self._detector is not None:
            self._detector.access(worker, self._touched[planned.order], looked)
        stopped = self._execute(planned, step)
        if self._tags is not None:
            writes = self._touched[planned.order].writes
            self._tags.written(planned, writes, step)
            for atom in writes.tolist():
                for looking in self._looking.pop(atom, ()):
                    self._enqueue(looking)
            if self._detector is not None:
                self._detector.mark(worker, (planned.order, step))
        if stopped:
            self._stop_at = min(self._stop_at, step + 1)
        if stopped or (planned.may_stop and self._stop_any_time):
            self._check_stop(step, planned)
        for cell in planned.signals:
            self._signal(worker, cell, step)

    def _acquire(self, worker: int, cell: int, epoch: int) -> None:
        if epoch < 0:
            return
        if self._signalled[epoch][cell] < self._schedule.arrivals[cell]:
            raise MpkirError(
                f"event {self._schedule.cells[cell]} fires too early for step {epoch}: "
                "signals of a later step are counted among its arrivals",
                where=self._where(worker),
            )
        if self._detector is not None:
            self._detector.wait(worker, cell, epoch)

    def _signal(self, worker: int, cell: int, step: int) -> None:
        self._seen[cell] += 1
        self._signalled[step][cell] += 1
        if self._detector is not None:
            self._detector.signal(worker, cell, step)
        for blocked in self._blocked.pop(cell, ()):
            self._enqueue(blocked)

    def _advance(self, worker: int) -> None:
        self._next[worker] += 1
        if self._next[worker] < len(self._schedule.workers[worker]):
            return
        self._next[worker] = 0
        self._step[worker] += 1
        if self._detector is not None:
            slowest = min(self._step[w] for w, tasks in enumerate(self._schedule.workers) if tasks)
            if self._step[worker] == slowest:
                self._detector.forget(slowest - 1)

    def _check_stop(self, step: int, planned: PlannedTask) -> None:
        """No task of a step after the last may have run, or look for its tags: a worker may go on
        to its next task while the one before still runs.
        """
        for worker, at in enumerate(self._step):
            if self._rank(worker) != planned.rank:
                # Its own task stops it: all ranks append the same token.
                continue
            if at > step + 1 or (at == step + 1 and self._next[worker] > 0):
                raise MpkirError(
                    f"{planned.label} stops the loop after step {step}, but worker {worker} has "
                    f"run tasks of step {step + 1} already",
                    hint=_WAIT_FIRST,
                )
        if step + 1 < len(self._signalled):
            for worker, tasks in enumerate(self._schedule.workers):
                mine = self._rank(worker) == planned.rank
                if mine and tasks and self._would_look(tasks[0], step + 1):
                    raise MpkirError(
                        f"{planned.label} stops the loop after step {step}, but {tasks[0].label} "
                        f"on worker {worker} may look already for tags of step {step + 1}, which "
                        "never come",
                        hint=_WAIT_FIRST,
                    )
        self._ready = [w for w in self._ready if self._step[w] < self._stop_at]

    def _would_look(self, planned: PlannedTask, step: int) -> bool:
        """Whether a task looks for tags, and no counter holds it back."""
        polls = self._tags is not None and self._tags.are_polled_by(planned)
        return polls and self._missing(planned, step) is None

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
        cell = self._blocking(worker)
        if cell is None:
            looks = self._task(worker).looks
            if not looks:
                return f"{self._where(worker)} looks for tags of flagged buffers that it reads"
            flags = (self._schedule.counters[c] for c, _ in looks)
            return f"{self._where(worker)} looks for the flags of event {', '.join(flags)}"
        lag = dict(self._task(worker).waits)[cell]
        wanted = self._schedule.arrivals[cell] * (self._step[worker] + 1 - lag)
        return (
            f"{self._where(worker)} has seen {self._seen[cell]} of {wanted} arrivals "
            f"of event {self._schedule.cells[cell]}"
        )

    def _where(self, worker: int) -> str:
        label, step = self._task(worker).label, self._step[worker]
        return f"{label} of step {step} on {self._worker(worker)}"

    def _rank(self, worker: int) -> int:
        return worker * self._schedule.ranks // len(self._schedule.workers)

    def _worker(self, worker: int) -> str:
        """A worker's name for a message."""
        if self._schedule.ranks == 1:
            return f"worker {worker}"
        each = len(self._schedule.workers) // self._schedule.ranks
        return f"worker {worker % each} of rank {worker // each}"

    def _describe(self, worker: int, count: int) -> str:
        """Name the `count`-th task (from 1) that a worker runs in this launch."""
        tasks = self._schedule.workers[worker]
        step, at = divmod(count - 1, len(tasks))
        return f"{tasks[at].label} of step {step} on {self._worker(worker)}"
