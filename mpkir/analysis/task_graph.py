"""Tasks of a module and the counters that order them, as arrays; needs no schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from mpkir.analysis.families import Family, Ints, evaluate, families_of
from mpkir.analysis.flag_edges import FlagEdge, flag_edges_of
from mpkir.dialects import event
from mpkir.dialects.mesh import ranks_of
from mpkir.errors import MpkirError


@dataclass(frozen=True, eq=False)
class Edge:
    """What the tasks of one family wait for or signal."""

    counter: Ints
    """Number of the counter, over all event tensors, of each task; [tasks]."""
    lag: int


@dataclass(frozen=True, eq=False)
class TaskGraph:
    """Families in linear order, and who waits for whom."""

    families: tuple[Family, ...]
    offsets: Ints
    """First task of each family; one more at the end."""
    waits: tuple[tuple[Edge, ...], ...]
    """Of each family."""
    signals: tuple[tuple[Edge, ...], ...]
    arrivals: Ints
    """Of each counter in a step, from tasks of one rank."""
    handoffs: tuple[event.Handoff, ...]
    """Of each counter."""
    counters: tuple[str, ...]
    """Names, like `e7[3]`."""
    flags: tuple[FlagEdge, ...] = ()
    """Who waits for whom by flagged buffers, without a counter."""

    @property
    def tasks(self) -> int:
        """Number of tasks in a step."""
        return int(self.offsets[-1])

    @property
    def peers(self) -> frozenset[int]:
        """Counters that the tasks of all ranks signal."""
        peer = event.Handoff.PEER
        return frozenset(c for c, handoff in enumerate(self.handoffs) if handoff is peer)

    def family_of(self, task: int) -> Family:
        """The family of a task by its number in linear order."""
        return self.families[int(np.searchsorted(self.offsets, task, side="right")) - 1]


def task_graph_of(module: ModuleOp) -> TaskGraph:
    """Read a module of the task or event level.

    Raises MpkirError for an edge that names no counter.
    """
    families = families_of(module)
    sizes = [family.size for family in families]
    ranks = ranks_of(module)
    first: dict[str, int] = {}
    names: list[str] = []
    arrivals: list[int] = []
    handoffs: list[event.Handoff] = []
    for op in module.walk():
        if isinstance(op, event.TensorOp):
            symbol, each = op.sym_name.data, op.local_arrivals(ranks)
            first[symbol] = len(arrivals)
            names += [f"{symbol}[{i}]" for i in range(len(each))]
            arrivals += each
            handoffs += [op.handoff.data] * len(each)
    return TaskGraph(
        families,
        np.concatenate([[0], np.cumsum(np.array(sizes, np.int64))]).astype(np.int64),
        tuple(_edges(f, f.op.waits.data if f.op.waits else (), first) for f in families),
        tuple(_edges(f, f.op.signals.data if f.op.signals else (), first) for f in families),
        np.array(arrivals, np.int64),
        tuple(handoffs),
        tuple(names),
        tuple(flag_edges_of(families)),
    )


def _edges(
    family: Family, edges: Sequence[event.EdgeAttr], first: dict[str, int]
) -> tuple[Edge, ...]:
    result: list[Edge] = []
    for edge in edges:
        if edge.symbol not in first:
            raise MpkirError(f"@{edge.symbol} is no event", where=f"@{family.name}")
        index = evaluate(edge.index.data, family.coordinates)[:, 0]
        result.append(Edge(first[edge.symbol] + index, edge.lag.data))
    return tuple(result)
