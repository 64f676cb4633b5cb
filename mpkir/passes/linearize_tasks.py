"""linearize-tasks: one order of all tasks; those that one event releases stand together."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.passes import ModulePass

from mpkir.analysis.families import Family
from mpkir.errors import MpkirError
from mpkir.passes.event_graph import EventGraph, Tensor


def linear_order(graph: EventGraph) -> list[Family]:
    """The paper's Algorithm 1 on families: take an event that has fired, place the families that it
    releases, fire the events whose signallers are all placed.

    Raises MpkirError if some families wait for each other.
    """
    missing = {id(t): len(t.signals) for t in graph.tensors}
    waits = {family: 0 for family in graph.families}
    for tensor in graph.tensors:
        for tie in tensor.waits:
            waits[tie.family] += not tensor.lag
    signalled = graph.signals()
    ready: deque[Tensor] = deque()
    order: list[Family] = []

    def place(family: Family) -> None:
        order.append(family)
        for tensor in signalled[family]:
            missing[id(tensor)] -= 1
            if not missing[id(tensor)] and not tensor.lag:
                ready.append(tensor)

    for family in graph.families:
        if not waits[family]:
            place(family)
    while ready:
        tensor = ready.popleft()
        for tie in sorted(tensor.waits, key=lambda tie: tie.family.number):
            waits[tie.family] -= 1
            if not waits[tie.family]:
                place(tie.family)
    if len(order) < len(graph.families):
        stuck = next(family for family in graph.families if waits[family])
        raise MpkirError("families wait for each other in a circle", where=f"@{stuck.name}")
    return order


@dataclass(frozen=True)
class LinearizeTasksPass(ModulePass):
    """Order the families so that all tasks that an event releases are consecutive.

    The grids are put in that order, and `first` says where each family's tasks begin.
    """

    name = "mpk-linearize-tasks"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        graph = EventGraph.read(op)
        if not graph.families:
            return
        block = graph.families[0].op.parent
        assert block is not None
        assert block.last_op is not None
        first = 0
        for family in linear_order(graph):
            family.op.first = IntegerAttr(first, i64)
            first += family.size
            family.op.detach()
            block.insert_ops_before([family.op], block.last_op)
