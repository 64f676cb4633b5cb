"""linearize-tasks: one order of all tasks; those that one event releases stand together."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.passes import ModulePass

from mpkir.passes.event_graph import EventGraph


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
        for family in graph.order():
            family.op.first = IntegerAttr(first, i64)
            first += family.size
            family.op.detach()
            block.insert_ops_before([family.op], block.last_op)
