"""lower-dependencies: conflicting regions become events that order the tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, ModuleOp
from xdsl.ir.affine import AffineConstantExpr, AffineMap
from xdsl.passes import ModulePass

from mpkir.analysis.counters import Counters
from mpkir.analysis.families import Family, Ints, evaluate, families_of
from mpkir.analysis.labels import constant_map
from mpkir.analysis.order import FamilyEdge, redundant_edges
from mpkir.analysis.orderings import Ordering, orderings_of
from mpkir.dialects import event

END = "end"
"""The event that fires when all tasks of a step are done."""

MAX_TASKS = 1 << 16
"""Families of more tasks are never looked at task by task."""


@dataclass(frozen=True, eq=False)
class _Dependence:
    """A later family waits for an earlier one through counters chosen by two maps."""

    earlier: Family
    later: Family
    counters: Counters

    @classmethod
    def of(cls, ordering: Ordering) -> _Dependence:
        """The finest one for two families."""
        return cls(ordering.earlier, ordering.later, ordering.counters)

    @property
    def edge(self) -> FamilyEdge | None:
        """The same as groups of tasks, if the families are small or all of their tasks alike."""
        signals = _groups(self.earlier, self.counters.signal)
        waits = _groups(self.later, self.counters.wait)
        if signals is None or waits is None:
            return None
        count = self.counters.counters
        return FamilyEdge(self.earlier.number, self.later.number, signals, waits, count)

    def followed(self) -> npt.NDArray[np.bool_] | None:
        """For each task of the earlier family whether somebody waits for its counter; None for
        too many tasks.
        """
        counters = self.counters
        if counters.followed:
            return np.ones(1, bool)
        if max(self.earlier.size, self.later.size) > MAX_TASKS:
            return None
        waited = np.zeros(counters.counters, bool)
        waited[_counter_of_each(self.later, counters.wait)] = True
        return waited[_counter_of_each(self.earlier, counters.signal)]

    def tensor(self, name: str) -> event.TensorOp:
        """Its event tensor."""
        counters = self.counters
        return event.TensorOp(
            name,
            counters.counters,
            counters.arrivals,
            coarsened=(counters.ordered, counters.needed)
            if counters.ordered > counters.needed
            else None,
        )


def _counter_of_each(family: Family, map: AffineMap) -> Ints:
    return evaluate(map, family.coordinates)[:, 0]


def _groups(family: Family, map: AffineMap) -> Ints | None:
    """The counter of each task; of one that stands for all tasks of a big family."""
    if family.size <= MAX_TASKS:
        return _counter_of_each(family, map)
    expression = map.results[0]
    if isinstance(expression, AffineConstantExpr):
        return np.full(1, expression.value, np.int64)
    return None


def _needed(families: Sequence[Family]) -> list[_Dependence]:
    """The dependences of a step without those that others imply."""
    dependences = [_Dependence.of(ordering) for ordering in orderings_of(families)]
    edges = [(d, edge) for d in dependences if (edge := d.edge) is not None]
    sizes = [f.size if f.size <= MAX_TASKS else 1 for f in families]
    implied = redundant_edges(sizes, [edge for _, edge in edges])
    dropped = {id(d) for (d, _), is_implied in zip(edges, implied, strict=True) if is_implied}
    return [d for d in dependences if id(d) not in dropped]


def _all_followed(family: Family, dependences: Sequence[_Dependence]) -> bool:
    """Whether somebody waits for every task of a family."""
    followed = np.zeros(family.size if family.size <= MAX_TASKS else 1, bool)
    for dependence in dependences:
        if dependence.earlier is family and (these := dependence.followed()) is not None:
            followed = followed | these
    return bool(followed.all())


@dataclass(frozen=True)
class LowerDependenciesPass(ModulePass):
    """Order conflicting tasks by events, within a step and from step to step.

    Two families of which one writes what the other touches get an event tensor, with a counter for
    each group of tasks that conflict only among themselves, or for as few such groups together as
    affine maps can tell apart. A tensor that orders more pairs of tasks than conflict says so.
    Families that nobody in the step has to precede wait for the end of the step before, which all
    families signal of which some task precedes nobody.
    """

    name = "mpk-lower-dependencies"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        families = families_of(op)
        if not families:
            return
        waits: dict[Family, list[event.EdgeAttr]] = {family: [] for family in families}
        signals: dict[Family, list[event.EdgeAttr]] = {family: [] for family in families}
        tensors: list[event.TensorOp] = []
        needed = _needed(families)
        for number, dependence in enumerate(needed):
            name = f"e{number}"
            tensors.append(dependence.tensor(name))
            signal, wait = dependence.counters.signal, dependence.counters.wait
            signals[dependence.earlier].append(event.EdgeAttr(name, signal))
            waits[dependence.later].append(event.EdgeAttr(name, wait))

        sources = [family for family in families if not waits[family]]
        sinks = [family for family in families if not _all_followed(family, needed)]
        tensors.append(event.TensorOp(END, 1, sum(family.size for family in sinks)))
        for family in sources:
            waits[family].append(event.EdgeAttr(END, constant_map(len(family.op.grid)), 1))
        for family in sinks:
            signals[family].append(event.EdgeAttr(END, constant_map(len(family.op.grid))))

        first = families[0].op
        assert first.parent is not None
        first.parent.insert_ops_before(tensors, first)
        for family in families:
            family.op.waits = ArrayAttr(waits[family])
            family.op.signals = ArrayAttr(signals[family])
