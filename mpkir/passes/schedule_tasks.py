"""schedule-tasks: a worker and a place in its list for every task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import DenseArrayBase, IntegerAttr, ModuleOp, UnitAttr, i64
from xdsl.passes import ModulePass

from mpkir.analysis.cost import cost_of
from mpkir.analysis.families import WORKERS, Ints
from mpkir.analysis.task_graph import TaskGraph, task_graph_of
from mpkir.dialects.mesh import ranks_of
from mpkir.errors import MpkirError
from mpkir.machine import machine_named
from mpkir.passes.scheduling.policy import (
    Dynamic,
    Placement,
    Problem,
    policy_named,
    topological,
)


def slots_of(
    graph: TaskGraph, placed: Sequence[Placement | Dynamic], workers: int
) -> list[Ints | None]:
    """Places in the workers' lists, [tasks] for each family; None for a dynamic one.

    By rank, raised above the ranks of the tasks waited for, then in linear order. So in all lists
    together the least task that has not run can always run, and nothing blocks for ever.
    """
    given = [each.ranks if isinstance(each, Placement) else None for each in placed]
    ranks = topological(graph, given)
    static = [i for i, each in enumerate(placed) if isinstance(each, Placement)]
    slots: list[Ints | None] = [None] * len(placed)
    if not static:
        return slots
    worker = np.concatenate([each.workers for each in placed if isinstance(each, Placement)])
    order = np.lexsort((np.concatenate([ranks[i] for i in static]), worker))
    counts = np.bincount(worker, minlength=workers)
    slot = np.empty_like(worker)
    slot[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    ends = np.cumsum([graph.families[i].size for i in static])
    for i, each in zip(static, np.split(slot, ends[:-1]), strict=True):
        slots[i] = each
    return slots


@dataclass(frozen=True)
class ScheduleTasksPass(ModulePass):
    """Give every task a worker and a place in that worker's list.

    `policy` names who decides, `machine` the model it decides by, with another number of `workers`
    if given. Whatever a policy asks for, a task stands in its list behind all that it waits for in
    one order of all tasks, so nothing blocks for ever.
    """

    name = "mpk-schedule-tasks"

    workers: int | None = None
    policy: str = "round-robin"
    machine: str = "h100"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if self.workers is not None and self.workers < 1:
            raise MpkirError(f"a schedule for {self.workers} workers", where=self.name)
        try:
            policy = policy_named(self.policy)
        except MpkirError as error:
            raise MpkirError(error.what, where=self.name, hint=error.hint) from None
        graph = task_graph_of(op)
        machine = machine_named(self.machine, workers=self.workers)
        workers = machine.workers
        costs = tuple(cost_of(family) for family in graph.families)
        placed = policy.schedule(Problem(graph, costs, machine, workers))
        if ranks_of(op) > 1 and any(isinstance(each, Dynamic) for each in placed):
            raise MpkirError(
                f"policy {self.policy!r} gives tasks out when their events fire, and several ranks "
                "run the program: who fires one may be on another",
                where=self.name,
                hint="choose a policy that gives every task a worker, like list",
            )
        for family, each, slots in zip(
            graph.families, placed, slots_of(graph, placed, workers), strict=True
        ):
            if isinstance(each, Dynamic):
                family.op.workers = family.op.slots = None
                # Nobody can fetch weights ahead of a task whose worker is not known yet.
                family.op.stream = None
                family.op.properties["dynamic"] = UnitAttr()
            else:
                assert slots is not None
                family.op.workers = DenseArrayBase.from_list(i64, each.workers.tolist())
                family.op.slots = DenseArrayBase.from_list(i64, slots.tolist())
                family.op.properties.pop("dynamic", None)
        op.attributes[WORKERS] = IntegerAttr(workers, i64)
