"""The chain of tasks that the traced steps took their time by, found from the end.

From each task the path goes on to the one without which it could not have gone on earlier: who
wrote the data that came last, who signalled the event last, or the task before it on its worker.
Which elements of a flagged buffer a task reads is not in the table, so of the tasks that write the
buffer it is the last that was done when the data was there. Chunks of attention beyond the position
write nothing, so nobody goes on after their data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mpkir.runtime.origins import left_out
from mpkir.runtime.table import TaskField
from mpkir.tools.trace.timeline import COMPUTED, DATA, DONE, READY, TURNED, WEIGHTS, Ints, Timeline

LEAST = 50
"""Nanoseconds that data or an event must have come after the worker's turn to count as waited for:
about two ticks of the clock."""


@dataclass(frozen=True)
class Link:
    """One task on the path; nanoseconds. The times of all links add up to the steps'."""

    task: int
    cause: str
    """Why it did not go on earlier: "data", "event", or "worker" for the task before it."""
    begin: int
    """When what it waited for was done."""
    handoff: int
    """From there until the task could go on."""
    weights: int
    """Then waiting for weights."""
    end: int


def critical_path(timeline: Timeline) -> list[Link]:
    """The path from the first step's begin to the last one's end."""
    times = timeline.times
    before = _before_on_worker(timeline)
    events, data = _Signallers(timeline), _Writers(timeline)
    links: list[Link] = []
    task, until = int(times[:, DONE].argmax()), timeline.end
    while task >= 0 and until > 0:
        turned, ready, came = (int(times[task, k]) for k in (TURNED, READY, DATA))
        cause, previous = "worker", int(before[task])
        if came > ready + LEAST and (writer := data.last(task, came)) >= 0:
            cause, previous = "data", writer
        elif ready > turned + LEAST and (signaller := events.last(task)) >= 0:
            cause, previous = "event", signaller
        # On its own worker a task goes on when the one before is computed, else when it is stored.
        ends = 0
        if previous >= 0:
            ends = int(times[previous, COMPUTED if cause == "worker" else DONE])
        begin = max(0, min(ends, until))
        going = max(begin, min(came, until))
        weights = max(0, min(int(times[task, WEIGHTS]), until) - going)
        links.append(Link(task, cause, begin, going - begin, weights, until))
        task, until = previous, begin
    links.reverse()
    return links


def _before_on_worker(timeline: Timeline) -> Ints:
    """[n] the task before each on its row, or -1."""
    order = np.argsort(timeline.worker, kind="stable")
    first = np.append(True, np.diff(timeline.worker[order]) != 0)
    result = np.empty(len(order), np.int64)
    result[order] = np.where(first, -1, np.append(-1, order[:-1]))
    return result


class _Signallers:
    """Who was the last to signal each event in each step."""

    def __init__(self, timeline: Timeline) -> None:
        self.count = len(timeline.program.table.events)
        self.step = np.arange(len(timeline.worker)) // timeline.tasks_per_step
        self.wait = timeline.column(TaskField.WAIT_EVENT)
        self.lag = timeline.column(TaskField.WAIT_LAG)
        signal = timeline.column(TaskField.SIGNAL_EVENT)
        signals = np.flatnonzero(signal >= 0)
        ordered = signals[np.argsort(timeline.times[signals, DONE], kind="stable")]
        self.found = np.full(self.count * timeline.recording.steps, -1)
        self.found[self.step[ordered] * self.count + signal[ordered]] = ordered

    def last(self, task: int) -> int:
        """Of the event that a task waits for; -1 if there is none in these steps."""
        step = int(self.step[task] - self.lag[task])
        if self.wait[task] < 0 or step < 0:
            return -1
        return int(self.found[step * self.count + self.wait[task]])


class _Writers:
    """Who of those that write what a task polls was the last to be done before a time."""

    def __init__(self, timeline: Timeline) -> None:
        program, done = timeline.program, timeline.times[:, DONE]
        self.family, self.done = timeline.family, done
        self.step = np.arange(len(done)) // timeline.tasks_per_step
        self.sources: list[tuple[int, ...]] = [
            tuple(
                writer
                for buffer in program.table.operands(family)[: origin.reads]
                for writer in program.writers.get(buffer, ())
            )
            for family, origin in enumerate(program.origins)
        ]
        families = len(program.table.families)
        key = self.step * families + self.family
        order = np.lexsort((done, key))
        self.order = order[~_left_out(timeline)[order]]
        keys = np.arange(families * timeline.recording.steps + 1)
        self.first = np.searchsorted(key[self.order], keys)
        self.families = families

    def last(self, task: int, time: int) -> int:
        """-1 if it polls nothing that these steps wrote."""
        best = -1
        for family in self.sources[int(self.family[task])] if self.sources else ():
            key = int(self.step[task]) * self.families + family
            members = self.order[self.first[key] : self.first[key + 1]]
            if not len(members):
                continue
            before = int(np.searchsorted(self.done[members], time, side="right"))
            # Another SM's stamp of the store may be a tick later than the reader's of its arrival.
            found = int(members[max(0, before - 1)])
            if best < 0 or self.done[found] > self.done[best]:
                best = found
        return best


def _left_out(timeline: Timeline) -> npt.NDArray[np.bool_]:
    """[n] the tasks that had nothing to say where their step was."""
    program, recording = timeline.program, timeline.recording
    tokens = program.manifest.tokens_per_step
    lasts = (recording.position + (step + 1) * tokens - 1 for step in range(recording.steps))
    return np.concatenate([left_out(program.table, program.origins, last) for last in lasts])
