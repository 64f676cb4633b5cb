"""Which waits and signals of a schedule have to be executed, and which say nothing new.

Two facts make most of them needless. Every wait needs all arrivals of its counter, so an event
cannot fire before a worker's last task that signals it is done: that task signals for all of them,
and the event fires no later. And what a worker has waited for it knows from then on: a wait for an
event that fired before one that the worker has seen in this step brings nothing. That the tasks of
other ranks have signalled is known only through a wait for the very event. Program order
alone is not counted as knowledge, so a result is still handed over through memory by an event.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mpkir.analysis.families import Ints

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Listed:
    """The tasks of a step, those of each worker in the order in which it runs them."""

    worker: Ints
    """Of each task; -1 for one that is given out when its event has fired."""
    wait: Ints
    """Counter that a task waits for, or -1."""
    lag: Ints
    """0: the counter of this step; 1: that of the step before."""
    signal: Ints
    """Counter that a task signals, or -1."""
    peers: frozenset[int]
    """Counters that the tasks of all ranks signal."""


@dataclass(frozen=True, eq=False)
class Executed:
    """What has to be executed of a list's waits and signals."""

    waits: Bools
    """For each task whether it waits."""
    amounts: Ints
    """By how much each task raises its counter; 0: it does not signal."""


def executed_of(tasks: Listed) -> Executed:
    """The waits and signals that order the same tasks as all of them do.

    Waits that no run of the list reaches (a deadlock) are kept.
    """
    amounts = _amounts(tasks)
    return Executed(_Run(tasks, amounts).run(), amounts)


def _amounts(tasks: Listed) -> Ints:
    """Let the last task of a worker that signals a counter signal for all that do."""
    result = (tasks.signal >= 0).astype(np.int64)
    placed = np.flatnonzero((tasks.signal >= 0) & (tasks.worker >= 0))
    order = placed[np.lexsort((placed, tasks.signal[placed], tasks.worker[placed]))]
    same = (tasks.worker[order[1:]] == tasks.worker[order[:-1]]) & (
        tasks.signal[order[1:]] == tasks.signal[order[:-1]]
    )
    last = np.append(~same, True)[: len(order)]
    ends = np.flatnonzero(last)
    result[order] = 0
    result[order[last]] = np.diff(ends, prepend=-1)
    return result


class _Run:
    """One step of all workers, with what each knows from the events that it has seen.

    Knowledge is a row of numbers: how many tasks of each worker are done, which events of the step
    before have been seen, which of those between peers, and which events that tasks without a
    worker signal.
    """

    def __init__(self, tasks: Listed, amounts: Ints) -> None:
        self.tasks = tasks
        self.amounts = amounts.tolist()
        self.waits: Bools = tasks.wait >= 0
        self.wait, self.signal = tasks.wait.tolist(), tasks.signal.tolist()
        self.lag = tasks.lag.tolist()
        counters = 1 + int(max(tasks.wait.max(initial=-1), tasks.signal.max(initial=-1)))
        self.missing = np.bincount(
            tasks.signal[tasks.signal >= 0],
            amounts[tasks.signal >= 0],
            minlength=counters,
        ).tolist()
        self.placed = 1 + int(tasks.worker.max(initial=-1))
        self.done = np.zeros(len(tasks.worker), np.int64)
        self.lists = self._lists()
        late = np.unique(tasks.wait[(tasks.wait >= 0) & (tasks.lag > 0)])
        given = np.unique(tasks.signal[(tasks.signal >= 0) & (tasks.worker < 0)])
        self.late = {c: self.placed + i for i, c in enumerate(late.tolist())}
        self.given = {c: self.placed + len(late) + i for i, c in enumerate(given.tolist())}
        between = len(late) + len(given)
        self.peers = {c: self.placed + between + i for i, c in enumerate(sorted(tasks.peers))}
        width = self.placed + between + len(tasks.peers)
        self.fired = np.zeros((counters, width), np.int32)
        self.known = np.zeros((len(self.lists), width), np.int32)
        self.place = [0] * len(self.lists)
        self.blocked: dict[int, list[int]] = {}

    def _lists(self) -> list[list[int]]:
        """Of each worker the tasks that wait for something new or signal; then each task without a
        worker as a worker of its own.
        """
        tasks = self.tasks
        result: list[list[int]] = []
        for worker in range(self.placed):
            mine = np.flatnonzero(tasks.worker == worker)
            self.done[mine] = np.arange(1, len(mine) + 1)
            waiting = mine[tasks.wait[mine] >= 0]
            again = (np.diff(tasks.wait[waiting]) == 0) & (np.diff(tasks.lag[waiting]) == 0)
            self.waits[waiting[1:][again]] = False
            acts = self.waits[mine] | (np.array(self.amounts, np.int64)[mine] > 0)
            result.append(mine[acts].tolist())
        return [*result, *([task] for task in np.flatnonzero(tasks.worker < 0).tolist())]

    def run(self) -> Bools:
        """Which waits are needed."""
        ready = list(range(len(self.lists)))
        while ready:
            self.advance(ready.pop(), ready)
        return self.waits

    def advance(self, worker: int, ready: list[int]) -> None:
        """Run one worker until it has to wait."""
        tasks = self.lists[worker]
        while self.place[worker] < len(tasks):
            task = tasks[self.place[worker]]
            counter = self.wait[task]
            if self.waits[task] and not self.lag[task] and self.missing[counter] > 0:
                self.blocked.setdefault(counter, []).append(worker)
                return
            if self.waits[task]:
                self.waits[task] = self.learn(worker, task)
            self.place[worker] += 1
            if self.amounts[task]:
                self.raise_counter(worker, task, ready)

    def raise_counter(self, worker: int, task: int, ready: list[int]) -> None:
        """Signal, telling what the worker knows and has done."""
        counter = self.signal[task]
        fired = self.fired[counter]
        np.maximum(fired, self.known[worker], out=fired)
        if worker < self.placed:
            fired[worker] = max(fired[worker], self.done[task])
        else:
            fired[self.given[counter]] = 1
        self.missing[counter] -= self.amounts[task]
        if not self.missing[counter]:
            ready += self.blocked.pop(counter, ())

    def learn(self, worker: int, task: int) -> bool:
        """Add what a wait tells to a worker's knowledge; whether it is something new.

        A task without a worker is given out by its event, so that its wait is always needed.
        """
        known, counter = self.known[worker], self.wait[task]
        if self.lag[task]:
            is_new = not known[self.late[counter]]
            known[self.late[counter]] = 1
        else:
            is_new = bool((self.fired[counter] > known).any())
            np.maximum(known, self.fired[counter], out=known)
            if counter in self.peers:
                is_new |= not known[self.peers[counter]]
                known[self.peers[counter]] = 1
        return is_new or worker >= self.placed
