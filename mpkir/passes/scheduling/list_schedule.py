"""list: each task to the worker that would finish it first, the longest remaining path first.

List scheduling on the machine model, without playing it in full: a worker has a time at which its
compute warps are free and one at which its loader is, which runs ahead of them by no more than the
ring; an event fires when its last signaller is done. While a step is bound by the chain of its
events the first decides, while it is bound by the memory the second, which balances bytes. Balance
alone was slower than turns on the H100 (FACTS: 1.05 against 0.99 ms), because it moves work to
whoever has read least though everybody waits for him.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np

from mpkir.analysis.families import Ints
from mpkir.analysis.task_times import KILO, Floats, times_of
from mpkir.passes.scheduling.policy import Placement, Policy, Problem


class ListSchedule(Policy):
    """Families by the longest path that remains, each task to who finishes it first."""

    def schedule(self, problem: Problem) -> list[Placement]:
        return _Schedule(problem).run()


class _Schedule:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.graph, self.machine = problem.graph, problem.machine
        self.times = [times_of(cost, problem.machine) for cost in problem.costs]
        count = problem.workers
        # What one loader gets when all load; how long it fills the ring.
        self.share = self.machine.memory_bandwidth * KILO / self.machine.workers
        self.ahead = self.machine.ring.bytes / self.share
        self.computing = np.zeros(count)
        self.loading = np.zeros(count)
        self.tells = np.full(count, -1.0)
        """The event that a worker's last task signals."""
        self.fired = np.zeros(len(self.graph.arrivals))
        self.done: dict[int, Floats] = {}
        """When the tasks of each placed family are done."""

    def run(self) -> list[Placement]:
        """Place all families."""
        after, missing = self._successors()
        remaining = self._remaining(after)
        ready = [(-remaining[f], f) for f, count in enumerate(missing) if not count]
        ready.sort()
        placed: list[Placement | None] = [None] * len(missing)
        rank = 0
        while ready:
            family = heappop(ready)[1]
            workers = self._place(family)
            placed[family] = Placement(workers, np.full(len(workers), rank, np.int64))
            rank += 1
            for each in after[family]:
                missing[each] -= 1
                if not missing[each]:
                    heappush(ready, (-remaining[each], each))
        # What is left waits in a circle; schedule-tasks says so.
        return [
            Placement(np.zeros(f.size, np.int64), np.full(f.size, rank, np.int64))
            if each is None
            else each
            for f, each in zip(self.graph.families, placed, strict=True)
        ]

    def _successors(self) -> tuple[list[list[int]], list[int]]:
        """For each family those that wait for it within a step, and how many it waits for."""
        signallers: dict[int, set[int]] = {}
        for family, edges in enumerate(self.graph.signals):
            for edge in edges:
                for counter in np.unique(edge.counter).tolist():
                    signallers.setdefault(counter, set()).add(family)
        after: list[list[int]] = [[] for _ in self.graph.families]
        missing: list[int] = []
        flagged: list[set[int]] = [set() for _ in self.graph.families]
        for flag in self.graph.flags:
            flagged[flag.later.number].add(flag.earlier.number)
        for family, edges in enumerate(self.graph.waits):
            before = {
                signaller
                for edge in edges
                if not edge.lag
                for counter in np.unique(edge.counter).tolist()
                for signaller in signallers.get(counter, ())
            } | flagged[family]
            missing.append(len(before))
            for each in before:
                after[each].append(family)
        return after, missing

    def _remaining(self, after: Sequence[Sequence[int]]) -> list[float]:
        """Microseconds from a family's start to the end of the longest path from it."""
        result = [0.0] * len(after)
        for family in reversed(range(len(after))):
            times, cost = self.times[family], self.problem.costs[family]
            each = np.maximum(times.work, cost.bytes / self.share)
            own = float(each.sum()) / self.problem.workers
            own = max(own, float(each.max(initial=0.0)))
            own += times.begin(self.machine) + self._handoff()
            result[family] = own + max((result[f] for f in after[family] if f > family), default=0)
        return result

    def _handoff(self) -> float:
        return self.machine.timing.release + self.machine.hops.counter

    def _arrives(self, ends: Floats, counters: Ints) -> Floats:
        """When the signals of tasks that end then are seen, each at its counter."""
        away = self.machine.hops.peer - self.machine.hops.counter
        peers = np.isin(counters, list(self.graph.peers))
        return ends + self._handoff() + away * peers

    def _place(self, family: int) -> Ints:
        """Workers of a family's tasks; the state moves on."""
        size = self.graph.families[family].size
        ready, told = np.zeros(size), np.full(size, -1, np.int64)
        for edge in self.graph.waits[family]:
            if not edge.lag:
                np.maximum(ready, self.fired[edge.counter], out=ready)
        for flag in self.graph.flags:
            if flag.later.number == family:
                groups, written = flag.groups, np.zeros(flag.groups.count)
                hops = self.machine.hops
                hop = hops.peer if flag.crosses_ranks else hops.flag
                times = self.done[flag.earlier.number][groups.source] + hop
                np.maximum.at(written, groups.source_group, times)
                seen = written[groups.target_group]
                ready[groups.target] = np.maximum(ready[groups.target], seen)
        for edge in self.graph.signals[family]:
            told = edge.counter
        workers, end = np.empty(size, np.int64), np.empty(size)
        first = np.ones(self.problem.workers, np.bool_)
        # Tasks that one event lets go and that tell the same event, in the order of their release.
        kinds, kind = np.unique(np.stack([ready, told]), axis=1, return_inverse=True)
        for number in range(kinds.shape[1]):
            group = np.flatnonzero(kind == number)
            time, event = kinds[:, number].tolist()
            workers[group], end[group] = self._place_group(family, group, time, event, first)
        self.done[family] = end
        for edge in self.graph.signals[family]:
            np.maximum.at(self.fired, edge.counter, self._arrives(end, edge.counter))
        return workers

    def _place_group(
        self,
        family: int,
        group: Ints,
        ready: float,
        tells: float,
        first: np.ndarray[tuple[int], np.dtype[np.bool_]],
    ) -> tuple[Ints, Floats]:
        """Tasks that wait for the same and tell the same: their workers and when they are done.

        They take nearly the same time, so the k-th task of a worker would be done at its first's
        end and k - 1 times that; the earliest of all these ends are taken. A worker's last task
        that signals an event signals for all, so who has just done tasks for the same event goes
        on, while any other has to publish first what it has done.
        """
        times, cost = self.times[family], self.problem.costs[family]
        count = self.problem.workers
        work = float(times.work[group].mean())
        load = float(cost.bytes[group].mean()) / self.share
        told = self.tells
        publish = np.where((told == tells) | (told < 0), 0.0, self.machine.timing.release)
        computing = self.computing
        loading = np.maximum(self.loading, computing - self.ahead)
        begin = np.maximum(ready, computing + publish) + times.begin(self.machine) * first
        most = -(-len(group) // count) + 2
        turns = np.arange(1, most + 1)[:, None]
        ends = np.maximum(begin + turns * work, loading + turns * load + work)
        # Of equal ends first who has read least, then by number.
        read = np.broadcast_to(self.loading, ends.shape)
        order = np.lexsort((read.ravel(), ends.round(3).ravel()))[: len(group)]
        workers = order % count
        counts = np.bincount(workers, minlength=count)
        used = np.flatnonzero(counts)
        last = np.maximum(begin + counts * work, loading + counts * load + work)[used]
        self.computing[used] = last
        self.loading[used] = loading[used] + counts[used] * load
        self.tells[used] = tells
        first[used] = False
        return workers, ends.ravel()[order]
