"""What must have happened before each task of a scheduled module, whatever the timing.

A wait needs all arrivals of its counter in a step, so what happens before a task does not depend on
who came first. It is found by running the workers' lists once for two steps with vector clocks:
component w of a task's clock counts the tasks of worker w that are done when it starts, itself
included. Steps after the second repeat it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import IntegerAttr, ModuleOp

from mpkir.analysis.families import WORKERS, Family, Ints, evaluate, families_of
from mpkir.dialects import event

Clocks = npt.NDArray[np.int32]

STEPS = 2


class ScheduleError(Exception):
    """The schedule is wrong; says how."""


@dataclass(frozen=True, eq=False)
class Edge:
    """What the tasks of one family wait for or signal."""

    counter: Ints
    """Number of the counter, over all event tensors, for each task of the family."""
    lag: int


@dataclass(frozen=True, eq=False)
class Schedule:
    """The tasks of a module with everything that orders them, in arrays over all tasks."""

    families: tuple[Family, ...]
    offsets: Ints
    """First task of each family; one more at the end."""
    workers: int
    worker: Ints
    """Of each task."""
    slot: Ints
    """Place of each task in its worker's list."""
    lists: list[Ints]
    """Tasks of each worker in order."""
    waits: list[list[Edge]]
    """Of each family."""
    signals: list[list[Edge]]
    counters: tuple[str, ...]
    """Names, like `e7[3]`."""
    arrivals: Ints
    """Of each counter in a step."""

    @property
    def tasks(self) -> int:
        """Number of tasks in a step."""
        return int(self.offsets[-1])

    def family_of(self, task: int) -> Family:
        """The family of a task by its number."""
        return self.families[int(np.searchsorted(self.offsets, task, side="right")) - 1]

    def label(self, task: int) -> str:
        """A task as a message names it: `l3.down[5]`."""
        family = self.family_of(task)
        return f"{family.name}[{task - int(self.offsets[family.number])}]"


def schedule_of(module: ModuleOp) -> Schedule:
    """Read a module's schedule and events.

    Raises ScheduleError if a task has no place, two have the same, or a counter does not exist.
    """
    families = families_of(module)
    sizes = np.array([family.size for family in families], np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    attribute = module.attributes.get(WORKERS)
    if not isinstance(attribute, IntegerAttr):
        raise ScheduleError("the module does not say how many workers run it")
    workers = attribute.value.data
    worker, slot = _places(families)
    outside = np.flatnonzero((worker < 0) | (worker >= workers))
    first, names, arrivals = _counters(module)
    schedule = Schedule(
        families,
        offsets,
        workers,
        worker,
        slot,
        [],
        [_edges(f, f.op.waits.data if f.op.waits else (), first, arrivals) for f in families],
        [_edges(f, f.op.signals.data if f.op.signals else (), first, arrivals) for f in families],
        tuple(names),
        np.array(arrivals, np.int64),
    )
    if len(outside):
        at = int(outside[0])
        raise ScheduleError(
            f"{schedule.label(at)} is placed on worker {worker[at]} of {workers} workers"
        )
    order = np.lexsort((slot, worker))
    counts = np.bincount(worker, minlength=workers)
    ends = np.cumsum(counts)
    expected = np.arange(len(worker)) - np.repeat(ends - counts, counts)
    wrong = np.flatnonzero(slot[order] != expected)
    if len(wrong):
        at = int(order[wrong[0]])
        raise ScheduleError(
            f"{schedule.label(at)} is in place {slot[at]} of worker {worker[at]}, where place "
            f"{expected[wrong[0]]} comes next"
        )
    schedule.lists.extend(np.split(order, ends[:-1]))
    return schedule


def _places(families: Sequence[Family]) -> tuple[Ints, Ints]:
    worker: list[Ints] = []
    slot: list[Ints] = []
    for family in families:
        workers, slots = family.op.workers, family.op.slots
        if workers is None or slots is None:
            raise ScheduleError(f"the tasks of @{family.name} have no workers")
        worker.append(np.array(workers.get_values(), np.int64))
        slot.append(np.array(slots.get_values(), np.int64))
    none = np.zeros(0, np.int64)
    return np.concatenate([none, *worker]), np.concatenate([none, *slot])


def _counters(module: ModuleOp) -> tuple[dict[str, tuple[int, int]], list[str], list[int]]:
    """First counter and number of counters of each tensor; names and arrivals of all counters."""
    first: dict[str, tuple[int, int]] = {}
    names: list[str] = []
    arrivals: list[int] = []
    for op in module.walk():
        if isinstance(op, event.TensorOp):
            each = op.arrivals_of_each
            first[op.sym_name.data] = (len(names), len(each))
            names += [f"{op.sym_name.data}[{i}]" for i in range(len(each))]
            arrivals += each
    return first, names, arrivals


def _edges(
    family: Family,
    edges: Sequence[event.EdgeAttr],
    first: dict[str, tuple[int, int]],
    arrivals: list[int],
) -> list[Edge]:
    result: list[Edge] = []
    for edge in edges:
        if edge.symbol not in first:
            raise ScheduleError(f"@{family.name} names the event @{edge.symbol}; there is none")
        begin, count = first[edge.symbol]
        index = evaluate(edge.index.data, family.coordinates)[:, 0]
        outside = np.flatnonzero((index < 0) | (index >= count))
        if len(outside):
            at = int(outside[0])
            raise ScheduleError(
                f"{family.name}[{at}] uses counter {index[at]} of @{edge.symbol}, which has {count}"
            )
        result.append(Edge(begin + index, edge.lag.data))
    return result


@dataclass(frozen=True, eq=False)
class HappensBefore:
    """Vector clocks of two consecutive steps."""

    schedule: Schedule
    clocks: Clocks
    """[step, task, worker]: how many tasks of a worker, of both steps, are done before a task ends.
    """
    fired: Clocks
    """[step, counter, worker]: the same for when all signals of a counter have come."""

    def position(self, step: int, tasks: Ints) -> Ints:
        """What its own component of a task's clock counts."""
        lengths = np.array([len(tasks) for tasks in self.schedule.lists], np.int64)
        return self.schedule.slot[tasks] + 1 + step * lengths[self.schedule.worker[tasks]]

    def ordered(self, earlier: Ints, later: Ints, step: int = 0) -> npt.NDArray[np.bool_]:
        """For pairs of tasks, the earlier ones in step 0, whether they happen in that order."""
        seen = self.clocks[step, later, self.schedule.worker[earlier]]
        return seen >= self.position(0, earlier)

    def follows_step(self) -> npt.NDArray[np.bool_]:
        """For each task whether it starts in step 1 only when all tasks of step 0 are done."""
        lengths = np.array([len(tasks) for tasks in self.schedule.lists], np.int64)
        return (self.clocks[1] >= lengths).all(axis=1)


def happens_before(schedule: Schedule) -> HappensBefore:
    """Run two steps.

    Raises ScheduleError if a counter gets more or fewer signals a step than it expects, or if some
    task waits for ever.
    """
    signals = np.zeros(len(schedule.counters), np.int64)
    for edges in schedule.signals:
        for edge in edges:
            np.add.at(signals, edge.counter, 1)
    wrong = np.flatnonzero(signals != schedule.arrivals)
    if len(wrong):
        at = int(wrong[0])
        raise ScheduleError(
            f"{schedule.counters[at]} expects {schedule.arrivals[at]} arrivals a step, "
            f"but {signals[at]} tasks signal it"
        )
    return _Run(schedule).run()


class _Run:
    """The workers playing their lists; a blocked worker waits in the list of its counter."""

    def __init__(self, schedule: Schedule) -> None:
        tasks, workers, counters = schedule.tasks, schedule.workers, len(schedule.counters)
        self.schedule = schedule
        self.clocks = np.zeros((STEPS, tasks, workers), np.int32)
        self.fired = np.zeros((STEPS, counters, workers), np.int32)
        self.missing = [schedule.arrivals.tolist() for _ in range(STEPS)]
        self.blocked: dict[tuple[int, int], list[int]] = {}
        self.waits = _per_task(schedule, schedule.waits)
        self.signals = _per_task(schedule, schedule.signals)
        self.lists: list[list[int]] = [each.tolist() for each in schedule.lists]
        self.place = [0] * workers
        self.clock = np.zeros((workers, workers), np.int32)

    def run(self) -> HappensBefore:
        ready = list(range(self.schedule.workers))
        while ready:
            self.advance(ready.pop(), ready)
        for worker, tasks in enumerate(self.lists):
            if self.place[worker] < STEPS * len(tasks):
                self.refuse()
        return HappensBefore(self.schedule, self.clocks, self.fired)

    def advance(self, worker: int, ready: list[int]) -> None:
        """Run one worker until it has to wait."""
        tasks, clock = self.lists[worker], self.clock[worker]
        while self.place[worker] < STEPS * len(tasks):
            step, slot = divmod(self.place[worker], len(tasks))
            task = tasks[slot]
            for counter, lag in self.waits[task]:
                if step < lag:
                    continue
                if self.missing[step - lag][counter] > 0:
                    self.blocked.setdefault((step - lag, counter), []).append(worker)
                    return
                np.maximum(clock, self.fired[step - lag, counter], out=clock)
            self.place[worker] += 1
            clock[worker] = self.place[worker]
            self.clocks[step, task] = clock
            for counter, _ in self.signals[task]:
                np.maximum(self.fired[step, counter], clock, out=self.fired[step, counter])
                self.missing[step][counter] -= 1
                if not self.missing[step][counter]:
                    ready += self.blocked.pop((step, counter), ())

    def refuse(self) -> None:
        """Say which task waits for ever: of those that do, the first in linear order."""
        schedule = self.schedule
        stuck = min(
            (divmod(place, len(tasks))[0], tasks[place % len(tasks)])
            for place, tasks in zip(self.place, self.lists, strict=True)
            if place < STEPS * len(tasks)
        )
        step, task = stuck
        fires, counter = next(
            (step - lag, c) for c, lag in self.waits[task] if self.missing[step - lag][c] > 0
        )
        raise ScheduleError(
            f"deadlock: {schedule.label(task)} waits for ever for {schedule.counters[counter]}, "
            f"which waits for {self.absent(fires, counter)}"
        )

    def absent(self, step: int, counter: int) -> str:
        """A task that should signal a counter in a step and has not run."""
        for task, signals in enumerate(self.signals):
            worker = int(self.schedule.worker[task])
            tasks, place = self.lists[worker], self.place[worker]
            has_run = step * len(tasks) + int(self.schedule.slot[task]) < place
            if not has_run and any(c == counter for c, _ in signals):
                at = tasks[place % len(tasks)]
                behind = "" if at == task else f", which stands behind {self.schedule.label(at)}"
                return f"{self.schedule.label(task)} on worker {worker}{behind}"
        raise AssertionError(f"{self.schedule.counters[counter]} has fired")


def _per_task(schedule: Schedule, edges: list[list[Edge]]) -> list[list[tuple[int, int]]]:
    """For each task its counters with their lags."""
    result: list[list[tuple[int, int]]] = []
    for family, each in zip(schedule.families, edges, strict=True):
        if len(each) == 1:
            shared = {c: [(c, each[0].lag)] for c in np.unique(each[0].counter).tolist()}
            result += [shared[counter] for counter in each[0].counter.tolist()]
        else:
            columns = [[(c, edge.lag) for c in edge.counter.tolist()] for edge in each]
            result += [list(row) for row in zip(*columns, strict=True)] or [
                [] for _ in range(family.size)
            ]
    return result
