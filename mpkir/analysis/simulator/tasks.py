"""What a plan says of every task, as plain lists, which the simulator reads one element at a time.

Readers of a flagged buffer wait until all that they read is written: each group of readers of a box
has a counter of its own here, behind those of the graph.
"""

from __future__ import annotations

import numpy as np

from mpkir.analysis.cost import Loop
from mpkir.analysis.flag_edges import FlagEdge
from mpkir.analysis.plan import Plan
from mpkir.analysis.task_times import times_of

QUANTUM = 4
"""Stages that the loader takes together: finer changes times by less than 1 %."""


class Tasks:
    """By task in linear order, by family, by worker; the same in every step."""

    def __init__(self, plan: Plan) -> None:
        self.count = plan.graph.tasks
        self._read_times(plan)
        self._read_events(plan)
        self._read_flags(plan)
        self._read_lists(plan)
        self._cut_chunks(plan)

    def _read_times(self, plan: Plan) -> None:
        times = [times_of(cost, plan.machine) for cost in plan.costs]
        sizes = [family.size for family in plan.graph.families]
        self.family: list[int] = np.repeat(np.arange(len(sizes)), sizes).tolist()
        self.work: list[float] = [x for each in times for x in each.work.tolist()]
        self.dram: list[float] = [x for each in times for x in each.dram.tolist()]
        # Of each family.
        self.does_stream = [each.streams for each in times]
        self.merge = [each.merge for each in times]
        self.look = [each.look for each in times]
        self.prepare = [each.prepare for each in times]
        self.again = [each.again for each in times]
        self.input_first = [each.input_first for each in times]
        self.input_rest = [each.input_rest for each in times]
        self.inputs = [each.inputs for each in times]
        self.code = [each.code for each in times]
        self.body = [each.body for each in times]

    def _read_events(self, plan: Plan) -> None:
        executed = plan.executed
        self.wait: list[int] = executed.wait.tolist()
        self.lag: list[int] = executed.lag.tolist()
        self.signal: list[int] = executed.signal.tolist()
        self.amount: list[int] = executed.amount.tolist()

    def _read_flags(self, plan: Plan) -> None:
        self.looks: list[list[int]] = [[] for _ in range(self.count)]
        """Counters of flags that each task waits for."""
        self.joins: list[list[int]] = [[] for _ in range(self.count)]
        """Those of what it joins to its own rows of a cache, once it has been through these."""
        self.marks: list[list[int]] = [[] for _ in range(self.count)]
        """Those that it raises."""
        self.arrivals: list[int] = plan.graph.arrivals.tolist()
        """How much each counter waits for: the graph's, then those of flags."""
        for flag in plan.graph.flags:
            groups, first = flag.groups, len(self.arrivals)
            # Chunks of attention beyond the position are left alone by both sides.
            stores = ~plan.costs[flag.earlier.number].is_empty[groups.source]
            source_group = groups.source_group[stores]
            counts = np.bincount(source_group, minlength=groups.count)
            self.arrivals += counts.tolist()
            begin = int(plan.graph.offsets[flag.earlier.number])
            sources: list[int] = (groups.source[stores] + begin).tolist()
            for task, group in zip(sources, source_group.tolist(), strict=True):
                self.marks[task].append(first + group)
            begin = int(plan.graph.offsets[flag.later.number])
            looks = ~plan.costs[flag.later.number].is_empty[groups.target]
            targets: list[int] = (groups.target[looks] + begin).tolist()
            waits = self.joins if _joins(plan, flag) else self.looks
            for task, group in zip(targets, groups.target_group[looks].tolist(), strict=True):
                if counts[group]:
                    waits[task].append(first + group)

    def _read_lists(self, plan: Plan) -> None:
        placed = np.flatnonzero(plan.worker >= 0)
        order = placed[np.lexsort((plan.slot[placed], plan.worker[placed]))]
        counts = np.bincount(plan.worker[placed], minlength=plan.workers)
        self.lists: list[list[int]] = [
            each.tolist() for each in np.split(order, np.cumsum(counts)[:-1])
        ]
        """Each worker's tasks."""
        self.released_by: dict[int, list[int]] = {}
        """Tasks without a worker, by the counter that they wait for."""
        for each in np.flatnonzero(plan.worker < 0).tolist():
            self.released_by.setdefault(self.wait[each], []).append(each)

    def _cut_chunks(self, plan: Plan) -> None:
        ring, costs = plan.ring, plan.costs
        none = np.zeros(0, np.int64)
        stages: list[int] = np.concatenate([none, *(c.stages for c in costs)]).tolist()
        streamed: list[int] = np.concatenate([none, *(c.streamed for c in costs)]).tolist()
        quantum = max(1, min(QUANTUM, ring.slots // 2))
        self.chunks_of = [-(-n // quantum) for n in stages]
        """How many chunks each task multiplies."""
        self.chunks: list[list[tuple[float, int, float]]] = []
        """What each loader loads in a step, in order: (bytes, stages, bytes in flight)."""
        for tasks in self.lists:
            chunks: list[tuple[float, int, float]] = []
            for each in tasks:
                if not stages[each]:
                    continue
                size = streamed[each] / stages[each]
                for left in range(stages[each], 0, -quantum):
                    count = min(quantum, left)
                    chunks.append((size * count, count, size * ring.in_flight))
            self.chunks.append(chunks)


def _joins(plan: Plan, flag: FlagEdge) -> bool:
    """Whether the readers join what they read to rows of a cache of their own."""
    earlier, later = plan.costs[flag.earlier.number], plan.costs[flag.later.number]
    return earlier.loop is Loop.ATTENTION and bool(later.joined) and bool(later.rows.any())
