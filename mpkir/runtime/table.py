"""The table of a compiled program: which worker runs which task when, as four int32 arrays.

    tasks    [n, 8]   family, index, wait_event, wait_arrivals, wait_lag,
                      signal_event, signal_amount, release_arrivals
    workers  [w + 1]  worker k runs tasks[workers[k] : workers[k + 1]] in this order
    families [f, 16]  body, grid_size, stream_rows, stream_weights, buffer ids x 12 (padded with -1)
    events   [e]      arrivals per step

Where several ranks run a program, all of them have this table, and the last events may be peers':
a signal raises such a counter at every rank, so it has ranks x as many arrivals as its tasks say.

A wait or signal of -1 means none. tasks[workers[w] :] are dynamic: by the event they wait for, and
given to a worker when it fires. release_arrivals is not 0 where the task signals an event that
dynamic tasks wait for: the arrivals of that event. The kernel reads the arrays as they are (see
docs/table.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from mpkir.errors import MpkirError
from mpkir.runtime.releases import Ints, last_event, release_arrivals, released_by

ARRAYS = ("tasks", "workers", "families", "events")
FIRST_OPERAND = 4
MAX_OPERANDS = 12
_COMPILE_AGAIN = "the artifact is damaged or was edited by hand: compile it again"


class TaskField(IntEnum):
    """The columns of `Table.tasks`."""

    FAMILY = 0
    INDEX = 1
    WAIT_EVENT = 2
    WAIT_ARRIVALS = 3
    WAIT_LAG = 4
    SIGNAL_EVENT = 5
    SIGNAL_AMOUNT = 6
    RELEASE_ARRIVALS = 7


class FamilyField(IntEnum):
    """The first columns of `Table.families`; buffer ids follow from FIRST_OPERAND on."""

    BODY = 0
    GRID_SIZE = 1
    STREAM_ROWS = 2
    STREAM_WEIGHTS = 3


@dataclass(frozen=True)
class TableNames:
    """What the ids in a table stand for; an id is a position in one of these tuples."""

    buffers: tuple[str, ...]
    bodies: tuple[str, ...]
    families: tuple[str, ...]
    events: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Table:
    """The four arrays and the names of their ids; equal if all of that is equal.

    ranks        how many processes run the program together
    peer_events  how many of the events, the last ones, are signalled at every rank
    """

    tasks: Ints
    workers: Ints
    families: Ints
    events: Ints
    names: TableNames
    ranks: int = 1
    peer_events: int = 0

    @property
    def first_peer_event(self) -> int:
        """The first event that is signalled at every rank; the number of those that are not."""
        return len(self.events) - self.peer_events

    @property
    def worker_count(self) -> int:
        return len(self.workers) - 1

    @property
    def task_count(self) -> int:
        return len(self.tasks)

    @property
    def first_dynamic(self) -> int:
        """The first dynamic task; the number of those that have a place."""
        return int(self.workers[-1])

    @property
    def dynamic_count(self) -> int:
        return len(self.tasks) - self.first_dynamic

    @property
    def released(self) -> Ints:
        """Event k releases tasks[released[k] : released[k + 1]]; [e + 1]."""
        waits = self.tasks[self.first_dynamic :, TaskField.WAIT_EVENT]
        return released_by(waits, len(self.events), self.first_dynamic)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Table):
            return NotImplemented
        plain = ("names", "ranks", "peer_events")
        return all(getattr(self, name) == getattr(other, name) for name in plain) and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in ARRAYS
        )

    def task_label(self, task: int) -> str:
        """Name task number `task` for a message, e.g. "l3.gate_up[5]"."""
        row = self.tasks[task]
        return f"{self.names.families[row[TaskField.FAMILY]]}[{row[TaskField.INDEX]}]"

    def waiting_label(self, task: int) -> str:
        """Who waited, for a message: task number `task`, or -1 for a worker at its list's end."""
        return f"task {self.task_label(task)}" if task >= 0 else "the end of the step"

    def operands(self, family: int) -> tuple[int, ...]:
        """Buffer ids of a family: what its body reads, then what it writes."""
        return tuple(int(b) for b in self.families[family, FIRST_OPERAND:] if b >= 0)

    def validate(self) -> None:
        """Raise MpkirError unless the arrays are whole and agree with each other and the names."""
        self._check_shapes()
        self._check_names()
        self._check_workers()
        self._check_families()
        self._check_tasks()
        self._check_events()
        self._check_dynamic()

    def save(self, folder: Path) -> None:
        """Write tasks.npy, workers.npy, families.npy and events.npy; the names are not written."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)

    @staticmethod
    def load(folder: Path, names: TableNames, ranks: int = 1, peer_events: int = 0) -> Table:
        """Read what `save` wrote and validate it against `names` and the ranks."""
        arrays = {name: _load_array(folder / f"{name}.npy") for name in ARRAYS}
        table = Table(**arrays, names=names, ranks=ranks, peer_events=peer_events)
        table.validate()
        return table

    def _check_shapes(self) -> None:
        wanted = {"tasks": (None, 8), "workers": (None,), "families": (None, 16), "events": (None,)}
        for name, shape in wanted.items():
            array: npt.NDArray[np.generic] = getattr(self, name)
            if array.dtype != np.int32 or not array.flags.c_contiguous:
                _refuse(f"table array '{name}' is {array.dtype}, expected contiguous int32")
            if array.ndim != len(shape) or any(
                want is not None and have != want
                for have, want in zip(array.shape, shape, strict=False)
            ):
                text = ", ".join("n" if want is None else str(want) for want in shape)
                _refuse(f"table array '{name}' has shape {list(array.shape)}, expected [{text}]")

    def _check_names(self) -> None:
        for kind, count in (("families", len(self.families)), ("events", len(self.events))):
            names: tuple[str, ...] = getattr(self.names, kind)
            if len(names) != count:
                _refuse(f"the table has {count} {kind}, but {len(names)} names for them")
        for kind in ("buffers", "bodies", "families", "events"):
            names = getattr(self.names, kind)
            if len(set(names)) != len(names):
                twice = next(name for name in names if names.count(name) > 1)
                _refuse(f"two {kind} are named {twice!r}")

    def _check_workers(self) -> None:
        offsets = self.workers
        if len(offsets) < 2:
            _refuse("the table has no worker")
        if offsets[0] != 0 or np.any(np.diff(offsets) < 0):
            _refuse("the worker offsets do not start at 0 and rise")
        if offsets[-1] > len(self.tasks):
            _refuse(f"the workers run {offsets[-1]} tasks, but the table has {len(self.tasks)}")

    def _check_families(self) -> None:
        families = self.families
        _in_range(families[:, FamilyField.BODY], 0, len(self.names.bodies), "family", "body")
        _in_range(families[:, FamilyField.GRID_SIZE], 1, None, "family", "grid size")
        _in_range(families[:, FamilyField.STREAM_ROWS], 0, None, "family", "stream rows")
        _in_range(families[:, FamilyField.STREAM_WEIGHTS], 0, None, "family", "stream weights")
        operands = families[:, FIRST_OPERAND:]
        _in_range(operands, -1, len(self.names.buffers), "family", "operand buffer")
        gap = np.argwhere((operands[:, :-1] < 0) & (operands[:, 1:] >= 0))
        if len(gap):
            _refuse(f"family {gap[0, 0]} has a buffer after its last operand")

    def _check_tasks(self) -> None:
        tasks, f = self.tasks, TaskField
        _in_range(tasks[:, f.FAMILY], 0, len(self.families), "task", "family")
        sizes = self.families[:, FamilyField.GRID_SIZE].astype(np.int64)
        outside = (tasks[:, f.INDEX] < 0) | (tasks[:, f.INDEX] >= sizes[tasks[:, f.FAMILY]])
        if outside.any():
            at = int(outside.argmax())
            size = sizes[tasks[at, f.FAMILY]]
            _refuse(f"task {at} is {self.task_label(at)}, but that grid has {size} tasks")
        site = (np.cumsum(sizes) - sizes)[tasks[:, f.FAMILY]] + tasks[:, f.INDEX]
        order = np.argsort(site, kind="stable")
        same = np.flatnonzero(np.diff(site[order]) == 0)
        if len(same):
            _refuse(f"{self.task_label(int(order[same[0]]))} is in the table twice")
        if len(tasks) != sizes.sum():
            _refuse(f"the table has {len(tasks)} tasks, but its grids have {sizes.sum()}")

    def _check_events(self) -> None:
        tasks, f, events = self.tasks, TaskField, self.events
        _in_range(events, 1, None, "event", "arrivals per step")
        for what, column in (("wait", f.WAIT_EVENT), ("signal", f.SIGNAL_EVENT)):
            _in_range(tasks[:, column], -1, len(events), "task", f"{what} event")

        waits = tasks[:, f.WAIT_EVENT] >= 0
        if tasks[~waits, f.WAIT_ARRIVALS].any() or tasks[~waits, f.WAIT_LAG].any():
            _refuse("a task that waits for no event has a number of arrivals or a lag")
        wanted = tasks[waits, f.WAIT_ARRIVALS]
        arrivals = events[tasks[waits, f.WAIT_EVENT]]
        if np.any(wanted != arrivals):
            at = int((wanted != arrivals).argmax())
            task = int(np.flatnonzero(waits)[at])
            _refuse(
                f"{self.task_label(task)} waits for {wanted[at]} arrivals of event "
                f"{self.names.events[tasks[task, f.WAIT_EVENT]]!r}, which has {arrivals[at]} a step"
            )
        _in_range(tasks[:, f.WAIT_LAG], 0, 2, "task", "wait lag")

        signals = tasks[:, f.SIGNAL_EVENT] >= 0
        if tasks[~signals, f.SIGNAL_AMOUNT].any():
            _refuse("a task that signals no event has an amount")
        _in_range(tasks[signals, f.SIGNAL_AMOUNT], 1, None, "signal", "amount")
        if not 0 <= self.peer_events <= len(events) or (self.ranks == 1 and self.peer_events):
            _refuse(f"{self.peer_events} of {len(events)} events are peers' of {self.ranks} ranks")
        raised = np.zeros(len(events), np.int64)
        np.add.at(raised, tasks[signals, f.SIGNAL_EVENT], tasks[signals, f.SIGNAL_AMOUNT])
        raised[self.first_peer_event :] *= self.ranks
        if np.any(raised != events):
            at = int((raised != events).argmax())
            _refuse(
                f"event {self.names.events[at]!r} has {events[at]} arrivals a step, "
                f"but its tasks signal {raised[at]}"
            )

    def _check_dynamic(self) -> None:
        tasks, f = self.tasks, TaskField
        dynamic = tasks[self.first_dynamic :]
        waits = dynamic[:, f.WAIT_EVENT]
        bare = (waits < 0) | (dynamic[:, f.WAIT_LAG] != 0)
        if bare.any():
            task = self.first_dynamic + int(bare.argmax())
            _refuse(
                f"no worker has {self.task_label(task)} in its list, and it waits for no event of "
                "its own step that could release it"
            )
        if np.any(np.diff(waits) < 0):
            at = self.first_dynamic + int((np.diff(waits) < 0).argmax()) + 1
            _refuse(f"dynamic {self.task_label(at)} does not stand with those of its event")
        foreign = waits >= self.first_peer_event
        if foreign.any():
            task = self.first_dynamic + int(foreign.argmax())
            _refuse(
                f"dynamic {self.task_label(task)} is released by other ranks, who do not see it"
            )
        silent = dynamic[:, f.SIGNAL_EVENT] < 0
        if silent.any():
            task = self.first_dynamic + int(silent.argmax())
            _refuse(f"dynamic {self.task_label(task)} signals no event, so nobody knows its end")
        arrivals = release_arrivals(tasks[:, f.SIGNAL_EVENT], waits, self.events)
        wrong = tasks[:, f.RELEASE_ARRIVALS] != arrivals
        if wrong.any():
            at = int(wrong.argmax())
            _refuse(
                f"{self.task_label(at)} has release arrivals {tasks[at, f.RELEASE_ARRIVALS]}, "
                f"expected {arrivals[at]}: those of the event it signals, if that releases tasks"
            )
        if len(dynamic):
            self.last_event()

    def last_event(self) -> int:
        """The event after which a step's dynamic tasks are all done, and before which none of the
        next step's is released.

        So each is out once at a time, and a worker's queue needs room for those of one step only.
        Raises MpkirError if there is none.
        """
        tasks, f = self.tasks, TaskField
        columns = (tasks[:, f.WAIT_EVENT], tasks[:, f.WAIT_LAG], tasks[:, f.SIGNAL_EVENT])
        event = last_event(*columns, self.workers, len(self.events))
        if event is None:
            _refuse(
                f"dynamic {self.task_label(self.first_dynamic)} and its like: no event that a step "
                "begins with has them before it in their own step and behind it in the next"
            )
        return event


def mark_releases(tasks: Ints, first_dynamic: int, events: Ints) -> None:
    """Fill in the last column of `tasks`, of which those from `first_dynamic` on have no place."""
    f = TaskField
    waits = tasks[first_dynamic:, f.WAIT_EVENT]
    tasks[:, f.RELEASE_ARRIVALS] = release_arrivals(tasks[:, f.SIGNAL_EVENT], waits, events)


def build_table(
    worker_tasks: Sequence[Sequence[Sequence[int]]],
    families: Sequence[Sequence[int]],
    events: Sequence[int],
    names: TableNames,
    dynamic: Sequence[Sequence[int]] = (),
    ranks: int = 1,
    peer_events: int = 0,
) -> Table:
    """Pack lists into a validated table.

    worker_tasks  per worker, in order, rows of `Table.tasks` without the last column
    dynamic       rows of dynamic tasks, by the event they wait for
    families      rows of `Table.families`; the buffer ids need no padding
    events        arrivals per step
    """
    lists = [*worker_tasks, dynamic]
    rows = [[*row[: TaskField.RELEASE_ARRIVALS], 0] for tasks in lists for row in tasks]
    width = FIRST_OPERAND + MAX_OPERANDS
    padded = [[*family, *[-1] * (width - len(family))] for family in families]
    arrivals = np.array(events, np.int32)
    tasks = np.array(rows, np.int32).reshape(len(rows), len(TaskField))
    mark_releases(tasks, len(rows) - len(dynamic), arrivals)
    table = Table(
        tasks=tasks,
        workers=np.cumsum([0, *map(len, worker_tasks)], dtype=np.int32),
        families=np.array(padded, np.int32).reshape(len(families), width),
        events=arrivals,
        names=names,
        ranks=ranks,
        peer_events=peer_events,
    )
    table.validate()
    return table


def _load_array(path: Path) -> Ints:
    try:
        # numpy.load would also open a zip file, and keep it open.
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise MpkirError(
            "this part of the table is missing", where=str(path), hint=_COMPILE_AGAIN
        ) from None
    except (ValueError, EOFError, OSError) as error:
        raise MpkirError(
            f"this part of the table cannot be read ({error})", where=str(path), hint=_COMPILE_AGAIN
        ) from error


def _in_range(values: Ints, low: int, end: int | None, owner: str, what: str) -> None:
    """Refuse the first of `values` (one row per owner) that is not in [low, end)."""
    bad = values < low if end is None else (values < low) | (values >= end)
    if bad.any():
        at = np.argwhere(bad)[0]
        limit = f"at least {low}" if end is None else f"in [{low}, {end})"
        _refuse(f"{owner} {at[0]} has {what} {values[tuple(at)]}, expected {limit}")


def _refuse(what: str) -> NoReturn:
    raise MpkirError(what, where="table", hint=_COMPILE_AGAIN)
