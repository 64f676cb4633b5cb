"""Why a launch made no progress: what every worker waits for, and who has not signalled.

When the watchdog ends a launch, each worker leaves a note of where it stands. A task behind that
place in its worker's list has not run, so of those that signal an event, or write a buffer, one can
say which are missing, and where those stand in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import numpy.typing as npt

from mpkir.errors import MpkirError
from mpkir.runtime.launch import Control, Stand
from mpkir.runtime.table import Table, TaskField

WATCHDOG_S = 2.0
"""Seconds without progress after which a launch is ended."""

_WAITS = 1
_SHOWN = 6
_HINT = "what stands first has nobody to wait for: its signal or store is missing, or never ended"

Place = tuple[int, int]
"""A step of the launch and a row of the table."""


@dataclass(frozen=True)
class Missing:
    """Elements of a flagged buffer that a step has not written."""

    elements: int
    of: int
    runs: tuple[tuple[int, int], ...]
    """The first and last of consecutive ones."""


@dataclass(frozen=True)
class Polled:
    """What is known of flagged buffers, for programs that have some.

    missing   of a buffer in a step of the launch
    writers   the families that write each flagged buffer; () if that is not known
    reads     how many operands each family reads; () if that is not known
    rows      elements that each rank writes, row after row, of buffers that ranks exchange
    partial   buffers of which a step writes what it has to say, and nobody waits for the rest:
              chunks of attention beyond its position
    """

    missing: Callable[[int, int], Missing]
    writers: Mapping[int, Sequence[int]]
    reads: Sequence[int] = ()
    rows: Mapping[int, int] = field(default_factory=dict[int, int])
    partial: frozenset[int] = frozenset()


@dataclass
class _Wait:
    """One event or one buffer that tasks wait for, in one step."""

    title: str
    waiting: list[tuple[int, int]]
    """Worker and task, which is -1 at the end of a list."""
    absent: list[int]
    """Tasks that have not run."""
    note: str = ""


class Hang:
    """A launch that the watchdog ended.

    counters   of the events, as it left them
    epoch      of its first step
    """

    def __init__(
        self,
        table: Table,
        control: Control,
        stands: Sequence[Stand],
        counters: npt.NDArray[np.uint32],
        epoch: int,
        polled: Polled | None = None,
    ) -> None:
        self.table, self.control, self.polled = table, control, polled
        self.counters, self.epoch = counters, epoch
        self.stands = stands
        self.places = [_place(stand) for stand in self.stands]
        counts = np.diff(table.workers)
        listed = np.repeat(np.arange(len(counts)), counts)
        self.worker = np.append(listed, np.full(table.dynamic_count, -1)).tolist()
        self.signals = table.tasks[:, TaskField.SIGNAL_EVENT]

    def error(self, watchdog_s: float) -> MpkirError:
        """The report."""
        control, table = self.control, self.table
        event, worker = control.fault_event, control.fault_worker
        if event >= 0:
            what = (
                f"event {table.names.events[event]}, which stands at {control.fault_seen} and "
                f"should reach {control.fault_wanted}"
            )
        else:
            what = "elements that it polls and nobody writes"
        lines = [f"worker {worker} waited more than {watchdog_s:g} s for {what}"]
        waits = self._waits()
        standing = {worker for wait in waits for worker, _ in wait.waiting}
        if waits:
            lines.append(f"{len(standing)} of {table.worker_count} workers stand:")
        # What nobody can be blamed for comes first: all others may wait because of it.
        for wait in sorted(waits, key=lambda wait: len(wait.absent)):
            who = ", ".join(f"{self._label(t)} on {w}" for w, t in wait.waiting[:_SHOWN])
            wanted = f"; wanted by {who}{_more(len(wait.waiting))}" if who else ""
            lines.append(f"- {wait.title}{wanted}")
            if wait.absent:
                lines.append(f"  not signalled: {self._absent(wait.absent)}")
            if wait.note:
                lines.append(f"  {wait.note}")
        return MpkirError(
            "\n".join(lines), where=table.waiting_label(control.fault_task), hint=_HINT
        )

    # ---- events ----

    def _waits(self) -> list[_Wait]:
        events: dict[tuple[int, int], list[tuple[int, Stand]]] = {}
        polls: dict[Place, list[int]] = {}
        for worker, stand in enumerate(self.stands):
            if stand.polls:
                polls.setdefault(self.places[worker] or (0, 0), []).append(worker)
            elif stand.kind == _WAITS:
                events.setdefault((stand.event, stand.wanted), []).append((worker, stand))
        # Of an event that is waited for in two steps the later is not what to look at.
        waits = {
            (event, self._step(at[0][1])): self._event(event, self._step(at[0][1]), at)
            for (event, _), at in sorted(events.items())
        }
        todo = list(waits)
        while todo:
            _, step = key = todo.pop()
            # What is given out at run time waits in no list: go on with what would release it.
            for event in self._releasing(waits[key].absent):
                if (event, step) not in waits and not self._fired(event, step):
                    waits[event, step] = self._event(event, step, [])
                    todo.append((event, step))
        return [*waits.values(), *self._buffers(polls)]

    def _step(self, stand: Stand) -> int:
        """In which the event that a worker waits for has to fire."""
        tasks = self.table.tasks
        return stand.step - (int(tasks[stand.task, TaskField.WAIT_LAG]) if stand.task >= 0 else 0)

    def _releasing(self, tasks: Sequence[int]) -> list[int]:
        given_out = [task for task in tasks if self.worker[task] < 0]
        return np.unique(self.table.tasks[given_out, TaskField.WAIT_EVENT]).tolist()

    def _lacking(self, event: int, step: int, seen: int) -> int:
        """Arrivals until an event fires in a step of the launch; at most 0 if it has."""
        wanted = int(self.table.events[event]) * (self.epoch + step + 1)
        lacking = (wanted - seen) % 2**32
        return lacking if lacking < 2**31 else lacking - 2**32

    def _fired(self, event: int, step: int) -> bool:
        return self._lacking(event, step, int(self.counters[event])) <= 0

    def _event(self, event: int, step: int, at: Sequence[tuple[int, Stand]]) -> _Wait:
        arrivals = int(self.table.events[event])
        # Before tasks with garbage at hand, behind a poll that was given up, signalled.
        seen = min((stand.seen for _, stand in at), default=int(self.counters[event]))
        lacking = self._lacking(event, step, seen)
        title = (
            f"event {self.table.names.events[event]} has {max(0, arrivals - lacking)} of "
            f"{arrivals} arrivals in step {step}"
        )
        signallers = np.flatnonzero(self.signals == event).tolist()
        absent = [task for task in signallers if not self._has_run(task, step)]
        note = "" if absent else self._lost(event, signallers, lacking)
        return _Wait(title, [(worker, stand.task) for worker, stand in at], absent, note)

    def _lost(self, event: int, signallers: Sequence[int], lacking: int) -> str:
        """Who is to blame where all that signal an event have run."""
        table = self.table
        raised = int(table.tasks[signallers, TaskField.SIGNAL_AMOUNT].sum())
        wanted = int(table.events[event])
        if event >= table.first_peer_event and raised * table.ranks >= wanted:
            return (
                f"all {len(signallers)} tasks of this rank that signal it have run; from all "
                f"{table.ranks} ranks together {lacking} arrivals lack"
            )
        if raised >= wanted:
            return f"all {len(signallers)} tasks that signal it have run; signals lost: {lacking}"
        silent = self._silent(event, signallers)
        if not silent:
            return f"the table's tasks raise it by {raised} of {wanted} a step"
        names = ", ".join(self._label(task) for task in silent[:_SHOWN])
        return (
            f"the table's tasks raise it by {raised} of {wanted} a step; of its families "
            f"{names}{_more(len(silent))} signal nothing"
        )

    def _silent(self, event: int, signallers: Sequence[int]) -> list[int]:
        """Tasks like those that signal an event whose signal is not in that of a later one.

        The last task of several of a worker may signal for all of them, by their number.
        """
        tasks, f = self.table.tasks, TaskField
        families = set(tasks[signallers, f.FAMILY].tolist()) or self._families_like(event)
        members = np.flatnonzero(np.isin(tasks[:, f.FAMILY], sorted(families))).tolist()
        result: list[int] = []
        for _, group in groupby(members, key=self.worker.__getitem__):
            pending: list[int] = []
            for task in group:
                if tasks[task, f.SIGNAL_EVENT] < 0:
                    pending.append(task)
                else:
                    covered = int(tasks[task, f.SIGNAL_AMOUNT]) - 1
                    del pending[len(pending) - covered :]
            result += pending
        return result

    def _families_like(self, event: int) -> set[int]:
        """Families that signal others of an event's tensor: an event nobody signals is theirs."""
        names = self.table.names.events
        tensor, dot, _ = names[event].rpartition(".")
        alike = [k for k, name in enumerate(names) if dot and name.rpartition(".")[0] == tensor]
        signal = np.isin(self.signals, alike)
        return set(self.table.tasks[signal, TaskField.FAMILY].tolist())

    def _has_run(self, task: int, step: int) -> bool:
        """Whether a task of a step is done, as far as its worker's place says."""
        worker = self.worker[task]
        if worker < 0:  # given out at run time: it has run if what releases it has fired
            return self._fired(int(self.table.tasks[task, TaskField.WAIT_EVENT]), step)
        place = self.places[worker]
        return place is None or (step, task) < place

    # ---- flagged buffers ----

    def _buffers(self, polls: Mapping[Place, Sequence[int]]) -> Iterable[_Wait]:
        """What polling tasks miss, by buffer and step."""
        waits: dict[tuple[int, int], _Wait] = {}
        for (step, task), workers in polls.items():
            waiting = [(worker, task) for worker in workers]
            missed = self._missed(task, step)
            for buffer, missing in missed:
                if (step, buffer) not in waits:
                    waits[step, buffer] = self._buffer(buffer, step, missing)
                waits[step, buffer].waiting.extend(waiting)
            if not missed:
                # Those that gave up have stored what they made of it, so only the first are seen.
                title = f"what {self._label(task)} polls in step {step} has come since"
                waits.setdefault((step, -1 - task), _Wait(title, [], [])).waiting.extend(waiting)
        return waits.values()

    def _missed(self, task: int, step: int) -> list[tuple[int, Missing]]:
        polled = self.polled
        if polled is None:
            return []
        family = int(self.table.tasks[task, TaskField.FAMILY])
        operands = self.table.operands(family)
        reads = operands[: polled.reads[family]] if polled.reads else operands
        found = [(b, polled.missing(b, step)) for b in dict.fromkeys(reads) if b in polled.writers]
        found = [(buffer, missing) for buffer, missing in found if missing.elements]
        certain = [each for each in found if each[0] not in polled.partial]
        return certain or found

    def _buffer(self, buffer: int, step: int, missing: Missing) -> _Wait:
        assert self.polled is not None
        runs = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in missing.runs[:_SHOWN])
        title = (
            f"buffer {self.table.names.buffers[buffer]} lacks {missing.elements} of {missing.of} "
            f"elements in step {step} ({runs}{_more(len(missing.runs))})"
        )
        families = self.polled.writers[buffer]
        rows = np.flatnonzero(np.isin(self.table.tasks[:, TaskField.FAMILY], list(families)))
        absent = [task for task in rows.tolist() if not self._has_run(task, step)]
        note = ""
        row = self.polled.rows.get(buffer)
        if row:
            ranks = sorted({r for a, b in missing.runs for r in range(a // row, b // row + 1)})
            what = "rank" if len(ranks) == 1 else "ranks"
            note = f"what is not there comes from {what} {', '.join(map(str, ranks))}"
        elif buffer in self.polled.partial:
            note = "chunks beyond the position may be missing"
        elif not absent and families:
            names = ", ".join(self.table.names.families[family] for family in families)
            note = f"all tasks of {names}, which write it, have run: a store was lost"
        return _Wait(title, [], absent, note)

    # ---- names ----

    def _label(self, task: int) -> str:
        return self.table.task_label(task) if task >= 0 else "the end of the step"

    def _absent(self, tasks: Sequence[int]) -> str:
        shown: list[str] = []
        for task in tasks[:_SHOWN]:
            worker = self.worker[task]
            place = self.places[worker] if worker >= 0 else None
            on = f" on {worker}" if worker >= 0 else ", given out at run time"
            at = "" if place is None or place[1] == task else f", which is at {self._at(worker)}"
            shown.append(f"{self._label(task)}{on}{at}")
        return ", ".join(shown) + _more(len(tasks))

    def _at(self, worker: int) -> str:
        place = self.places[worker]
        assert place is not None
        return f"{self._label(place[1])} of step {place[0]}"


def _place(stand: Stand) -> Place | None:
    """The first task that has not run; None if the worker came to the launch's end."""
    if stand.polls:
        word = ~stand.polls % 2**64
        return word >> 32, word % 2**32
    if stand.kind == 0:
        return None
    # At the end of its list a worker has run all of the step.
    return (stand.step, stand.task) if stand.task >= 0 else (stand.step + 1, -1)


def _more(count: int) -> str:
    return f" and {count - _SHOWN} more" if count > _SHOWN else ""


def missing_elements(late: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Missing:
    """Which elements of a buffer, row-major, do not carry the step's tag."""
    where = np.flatnonzero(late)
    cuts = np.flatnonzero(np.diff(where) != 1) + 1
    runs = [(int(run[0]), int(run[-1])) for run in np.split(where, cuts) if len(run)]
    return Missing(len(where), late.size, tuple(runs))
