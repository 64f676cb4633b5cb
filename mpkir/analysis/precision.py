"""How many pairs of tasks event tensors order, beside how many conflict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from mpkir.analysis.families import Family, Ints, evaluate
from mpkir.analysis.orderings import orderings_of
from mpkir.dialects import event


@dataclass(frozen=True)
class Precision:
    """What one event tensor orders within a step; empty tasks that join events are left out."""

    name: str
    ordered: int
    """Pairs of tasks of which one signals a counter and the other waits for it."""
    needed: int
    """Pairs of tasks that conflict, of the families that these tasks belong to."""


def precision_of(module: ModuleOp, families: Sequence[Family]) -> list[Precision]:
    """The event tensors of a module that order conflicting families without a join between."""
    conflicting = {(o.earlier.number, o.later.number): o.pairs for o in orderings_of(families)}
    counters = {
        op.sym_name.data: op.counters.value.data
        for op in module.walk()
        if isinstance(op, event.TensorOp)
    }
    signals: dict[str, list[tuple[Family, Ints]]] = {name: [] for name in counters}
    waits: dict[str, list[tuple[Family, Ints]]] = {name: [] for name in counters}
    for family in families:
        for edge in family.op.signals or ():
            signals[edge.symbol].append((family, _tasks(family, edge, counters)))
        for edge in family.op.waits or ():
            if not edge.lag.data:
                waits[edge.symbol].append((family, _tasks(family, edge, counters)))
    result: list[Precision] = []
    for name in counters:
        ordered = needed = 0
        for earlier, signalled in signals[name]:
            for later, waited in waits[name]:
                if pairs := conflicting.get((earlier.number, later.number), 0):
                    ordered += int(signalled @ waited)
                    needed += pairs
        if needed:
            result.append(Precision(name, ordered, needed))
    return result


def _tasks(family: Family, edge: event.EdgeAttr, counters: dict[str, int]) -> Ints:
    """How many tasks of a family use each counter."""
    used = evaluate(edge.index.data, family.coordinates)[:, 0]
    return np.bincount(used, minlength=counters[edge.symbol])
