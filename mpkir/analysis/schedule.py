"""A scheduled module as arrays: who runs which task, what it waits for and whom it tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import IntegerAttr, ModuleOp

from mpkir.analysis.families import WORKERS, Family, Ints, evaluate, families_of
from mpkir.analysis.flag_edges import FlagEdge, flag_edges_of
from mpkir.analysis.naming import operator_text
from mpkir.dialects import event
from mpkir.dialects.event import Handoff
from mpkir.dialects.mesh import ranks_of
from mpkir.errors import MpkirError


def schedule_error(what: str, hint: str | None = None) -> MpkirError:
    """The schedule is wrong; says how."""
    return MpkirError(what, where="schedule", hint=hint)


@dataclass(frozen=True, eq=False)
class Edge:
    """What the tasks of one family wait for or signal."""

    counter: Ints
    """Number of the counter, over all event tensors, for each task of the family."""
    lag: int


@dataclass(frozen=True, eq=False)
class Uses:
    """All waits or all signals, one row for each task and edge."""

    counter: Ints
    task: Ints
    lag: Ints

    def of(self, counter: int) -> Ints:
        """The tasks that use a counter, ascending."""
        return np.sort(self.task[self.counter == counter])


@dataclass(frozen=True, eq=False)
class Schedule:
    """The tasks of a module with everything that orders them, in arrays over all tasks.

    Each of several ranks runs all of it; a task stands for one on every rank.
    """

    families: tuple[Family, ...]
    offsets: Ints
    """First task of each family; one more at the end."""
    ranks: int
    workers: int
    """Of each rank."""
    worker: Ints
    """Of each task; -1 for a dynamic one."""
    slot: Ints
    """Place of each task in its worker's list; -1 for a dynamic one."""
    lists: list[Ints]
    """Tasks of each worker in order."""
    waits: list[list[Edge]]
    """Of each family."""
    signals: list[list[Edge]]
    counters: tuple[str, ...]
    """Names, like `e7[3]`."""
    arrivals: Ints
    """Of each counter in a step, from tasks of one rank."""
    handoffs: tuple[Handoff, ...]
    """Of each counter."""
    flags: tuple[FlagEdge, ...] = ()
    """Through flagged buffers; they have no counter."""

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

    def describe(self, task: int) -> str:
        """A task with its operator and where in the model it comes from."""
        return f"{self.label(task)} ({operator_text(self.family_of(task))})"

    def tasks_of(self, family: Family) -> range:
        """Numbers of a family's tasks."""
        return range(int(self.offsets[family.number]), int(self.offsets[family.number + 1]))

    @cached_property
    def all_waits(self) -> Uses:
        """Every wait."""
        return self._uses(self.waits)

    @cached_property
    def all_signals(self) -> Uses:
        """Every signal."""
        return self._uses(self.signals)

    def having(self, handoff: Handoff) -> npt.NDArray[np.bool_]:
        """Which counters hand over in this way."""
        return np.array([each is handoff for each in self.handoffs], bool)

    def _uses(self, edges: Sequence[Sequence[Edge]]) -> Uses:
        none = np.zeros(0, np.int64)
        counter, task, lag = [none], [none], [none]
        for family, each in zip(self.families, edges, strict=True):
            for edge in each:
                counter.append(edge.counter)
                task.append(np.arange(family.size) + self.offsets[family.number])
                lag.append(np.full(family.size, edge.lag))
        return Uses(*(np.concatenate(columns) for columns in (counter, task, lag)))


def schedule_of(module: ModuleOp) -> Schedule:
    """Read a module's schedule and events.

    Raises MpkirError if a task has no place, two have the same, or a counter does not exist.
    """
    families = families_of(module)
    sizes = np.array([family.size for family in families], np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    workers, ranks = _workers(module), ranks_of(module)
    events = [op for op in module.walk() if isinstance(op, event.TensorOp)]
    first: dict[str, tuple[int, int]] = {}
    names: list[str] = []
    for op in events:
        count = op.counters.value.data
        first[op.sym_name.data] = (len(names), count)
        names += [f"{op.sym_name.data}[{i}]" for i in range(count)]
    worker, slot = _places(families)
    schedule = Schedule(
        families,
        offsets,
        ranks,
        workers,
        worker,
        slot,
        [],
        [_edges(f, f.op.waits.data if f.op.waits else (), first) for f in families],
        [_edges(f, f.op.signals.data if f.op.signals else (), first) for f in families],
        tuple(names),
        np.array([each for op in events for each in op.local_arrivals(ranks)], np.int64),
        tuple(op.handoff.data for op in events for _ in range(op.counters.value.data)),
        tuple(flag_edges_of(families)),
    )
    schedule.lists.extend(_lists(schedule))
    return schedule


def _workers(module: ModuleOp) -> int:
    attribute = module.attributes.get(WORKERS)
    if not isinstance(attribute, IntegerAttr) or attribute.value.data < 1:
        raise schedule_error(f"the module does not say how many workers run it ({WORKERS})")
    return attribute.value.data


def _lists(schedule: Schedule) -> list[Ints]:
    """Each worker's tasks in order; its places have to be 0, 1, 2, .."""
    worker, slot, workers = schedule.worker, schedule.slot, schedule.workers
    static = (f for f in schedule.families if f.op.dynamic is None)
    tasks = np.array([task for f in static for task in schedule.tasks_of(f)], np.int64)
    outside = tasks[(worker[tasks] < 0) | (worker[tasks] >= workers)]
    if len(outside):
        at = int(outside[0])
        raise schedule_error(
            f"{schedule.describe(at)} is placed on worker {worker[at]} of {workers} workers"
        )
    order = tasks[np.lexsort((slot[tasks], worker[tasks]))]
    counts = np.bincount(worker[order], minlength=workers)
    ends = np.cumsum(counts)
    expected = np.arange(len(order)) - np.repeat(ends - counts, counts)
    wrong = np.flatnonzero(slot[order] != expected)
    if len(wrong):
        at, before = int(order[wrong[0]]), int(order[wrong[0] - 1])
        behind = f" after {schedule.describe(before)}" if expected[wrong[0]] else ""
        raise schedule_error(
            f"{schedule.describe(at)} is in place {slot[at]} of worker {worker[at]}, where place "
            f"{expected[wrong[0]]} comes next{behind}"
        )
    return np.split(order, ends[:-1])


def _places(families: Sequence[Family]) -> tuple[Ints, Ints]:
    worker: list[Ints] = []
    slot: list[Ints] = []
    for family in families:
        workers, slots = family.op.workers, family.op.slots
        if family.op.dynamic is not None:
            worker.append(np.full(family.size, -1))
            slot.append(np.full(family.size, -1))
        elif workers is None or slots is None:
            raise schedule_error(
                f"the tasks of @{family.name} ({operator_text(family)}) have no workers"
            )
        else:
            worker.append(np.array(workers.get_values(), np.int64))
            slot.append(np.array(slots.get_values(), np.int64))
    none = np.zeros(0, np.int64)
    return np.concatenate([none, *worker]), np.concatenate([none, *slot])


def _edges(
    family: Family, edges: Sequence[event.EdgeAttr], first: dict[str, tuple[int, int]]
) -> list[Edge]:
    result: list[Edge] = []
    for edge in edges:
        if edge.symbol not in first:
            raise schedule_error(
                f"@{family.name} ({operator_text(family)}) names the event @{edge.symbol}; "
                "there is none"
            )
        begin, count = first[edge.symbol]
        index = evaluate(edge.index.data, family.coordinates)[:, 0]
        outside = np.flatnonzero((index < 0) | (index >= count))
        if len(outside):
            at = int(outside[0])
            raise schedule_error(
                f"{family.name}[{at}] ({operator_text(family)}) uses counter {index[at]} of "
                f"@{edge.symbol}, which has {count}"
            )
        result.append(Edge(begin + index, edge.lag.data))
    return result
