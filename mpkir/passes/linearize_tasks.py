"""linearize-tasks: one order of all tasks; those that one event releases stand together."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import DenseArrayBase, IntegerAttr, ModuleOp, i64
from xdsl.passes import ModulePass

from mpkir.analysis.families import Family, Ints
from mpkir.analysis.flag_edges import FlagEdge, flag_edges_of
from mpkir.errors import MpkirError
from mpkir.passes.event_graph import EventGraph, Tensor


class _Line:
    """The paper's Algorithm 1 on tasks: take an event that has fired, place the tasks that it
    releases, fire the events whose signals are all placed. What tasks with the same box of a
    flagged buffer wait for is an event too.
    """

    def __init__(self, graph: EventGraph) -> None:
        self.graph = graph
        self.placed = 0
        self.place = {family: np.full(family.size, -1, np.int64) for family in graph.families}
        """Place of each task, -1 if it has none yet."""
        self.waiting = {family: np.zeros(family.size, np.int64) for family in graph.families}
        """How many events of this step each task still waits for."""
        self.missing = {tensor: tensor.arrivals for tensor in graph.tensors}
        self.signals = graph.signals()
        self.flags: dict[Family, list[FlagEdge]] = {family: [] for family in graph.families}
        """By who writes."""
        self.unwritten: dict[FlagEdge, Ints] = {}
        """How many tasks each group of readers still waits for."""
        for flag in flag_edges_of(graph.families):
            self.flags[flag.earlier].append(flag)
            groups = flag.groups
            self.unwritten[flag] = np.bincount(groups.source_group, minlength=groups.count)
        self.fired: deque[tuple[Tensor | FlagEdge, int]] = deque()

    def run(self) -> dict[Family, Ints]:
        """The place of every task. Raises MpkirError if some wait for each other."""
        for tensor in self.graph.tensors:
            for tie in () if tensor.lag else tensor.waits:
                self.waiting[tie.family] += 1
        for flag, unwritten in self.unwritten.items():
            groups = flag.groups
            self.waiting[flag.later][groups.target] += unwritten[groups.target_group] > 0
        for family in self.graph.families:
            self.put(family, np.flatnonzero(self.waiting[family] == 0))
        while self.fired:
            event, number = self.fired.popleft()
            if isinstance(event, FlagEdge):
                groups = event.groups
                self.release(event.later, groups.target[groups.target_group == number])
                continue
            for tie in sorted(event.waits, key=lambda tie: tie.family.number):
                self.release(tie.family, np.flatnonzero(tie.counter == number))
        for family, place in self.place.items():
            if (place < 0).any():
                stuck = int((place < 0).argmax())
                raise MpkirError(
                    "tasks wait for each other in a circle", where=f"@{family.name}[{stuck}]"
                )
        return self.place

    def release(self, family: Family, tasks: Ints) -> None:
        """One thing less to wait for."""
        self.waiting[family][tasks] -= 1
        self.put(family, tasks[self.waiting[family][tasks] == 0])

    def put(self, family: Family, tasks: Ints) -> None:
        """Place some tasks of a family next, and count their signals."""
        if not len(tasks):
            return
        self.place[family][tasks] = np.arange(self.placed, self.placed + len(tasks))
        self.placed += len(tasks)
        for tensor, tie in self.signals[family]:
            if tensor.lag or not tensor.waits:
                continue
            given = np.bincount(tie.counter[tasks], minlength=tensor.counters)
            self.missing[tensor] -= given
            fires = np.flatnonzero((self.missing[tensor] == 0) & (given > 0))
            self.fired += [(tensor, counter) for counter in fires.tolist()]
        for flag in self.flags[family]:
            groups = flag.groups
            rows = np.isin(groups.source, tasks)
            given = np.bincount(groups.source_group[rows], minlength=groups.count)
            self.unwritten[flag] -= given
            fires = np.flatnonzero((self.unwritten[flag] == 0) & (given > 0))
            self.fired += [(flag, group) for group in fires.tolist()]


@dataclass(frozen=True)
class LinearizeTasksPass(ModulePass):
    """Order the tasks so that all that an event releases are consecutive.

    The grids are put in the order of families. `first` says where a family's tasks begin in the
    linear order; where they do not follow each other there, because its events release some of them
    together with others', `order` has the place of each.
    """

    name = "mpk-linearize-tasks"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        graph = EventGraph.read(op)
        if not graph.families:
            return
        block = graph.families[0].op.parent
        assert block is not None
        assert block.last_op is not None
        place = _Line(graph).run()
        for family in graph.order():
            first = int(place[family].min())
            in_a_row = np.array_equal(place[family], np.arange(first, first + family.size))
            family.op.first = IntegerAttr(first, i64)
            family.op.order = (
                None if in_a_row else DenseArrayBase.from_list(i64, place[family].tolist())
            )
            family.op.detach()
            block.insert_ops_before([family.op], block.last_op)
