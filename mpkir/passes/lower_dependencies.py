"""lower-dependencies: conflicting regions become events that order the tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, ModuleOp
from xdsl.ir.affine import AffineMap
from xdsl.passes import ModulePass

from mpkir.analysis.dependence import Conflict, components, conflicts_of, touches_of
from mpkir.analysis.families import Family, Ints, evaluate, families_of
from mpkir.analysis.labels import constant_map, fit
from mpkir.analysis.order import FamilyEdge, redundant_edges
from mpkir.dialects import event

END = "end"
"""The event that fires when all tasks of a step are done."""


@dataclass(frozen=True, eq=False)
class _Dependence:
    """A later family waits for an earlier one through counters chosen by two maps."""

    earlier: Family
    later: Family
    signal: AffineMap
    wait: AffineMap
    arrivals: tuple[int, ...]

    @property
    def edge(self) -> FamilyEdge:
        """The same as groups of tasks."""
        return FamilyEdge(
            self.earlier.number,
            self.later.number,
            _counters(self.earlier, self.signal),
            _counters(self.later, self.wait),
            len(self.arrivals),
        )


def _counters(family: Family, map: AffineMap) -> Ints:
    return evaluate(map, family.coordinates)[:, 0]


def _dependence(conflict: Conflict) -> _Dependence:
    """Counters for one conflict: one for each group of tasks without conflicts across, if affine
    maps can say which.
    """
    earlier, later = conflict.earlier, conflict.later
    signals, waits, groups = components(conflict)
    signal = fit(signals, earlier.op.grid, groups)
    wait = fit(waits, later.op.grid, groups)
    if signal is not None and wait is not None:
        arrivals = np.bincount(_counters(earlier, signal), minlength=groups)
        if arrivals.min() > 0:
            return _Dependence(earlier, later, signal, wait, tuple(arrivals.tolist()))
    return _Dependence(
        earlier,
        later,
        constant_map(len(earlier.op.grid)),
        constant_map(len(later.op.grid)),
        (earlier.size,),
    )


def _tensor(name: str, arrivals: Sequence[int]) -> event.TensorOp:
    same = len(set(arrivals)) == 1
    return event.TensorOp(name, len(arrivals), arrivals[0] if same else list(arrivals))


def _needed(families: Sequence[Family]) -> list[_Dependence]:
    """The dependences of a step without those that others imply."""
    dependences = [_dependence(conflict) for conflict in conflicts_of(touches_of(families))]
    implied = redundant_edges([f.size for f in families], [d.edge for d in dependences])
    return [d for d, is_implied in zip(dependences, implied, strict=True) if not is_implied]


@dataclass(frozen=True)
class LowerDependenciesPass(ModulePass):
    """Order conflicting tasks by events, within a step and from step to step.

    Two families of which one writes what the other touches get an event tensor, with a counter for
    each group of tasks that conflict only among themselves; where no affine map can choose the
    counter, one for all. Families that nobody in the step has to precede wait for the end of the
    step before, which all families signal that precede nobody.
    """

    name = "mpk-lower-dependencies"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        families = families_of(op)
        if not families:
            return
        waits: dict[Family, list[event.EdgeAttr]] = {family: [] for family in families}
        signals: dict[Family, list[event.EdgeAttr]] = {family: [] for family in families}
        tensors: list[event.TensorOp] = []
        for number, dependence in enumerate(_needed(families)):
            name = f"e{number}"
            tensors.append(_tensor(name, dependence.arrivals))
            signals[dependence.earlier].append(event.EdgeAttr(name, dependence.signal))
            waits[dependence.later].append(event.EdgeAttr(name, dependence.wait))

        sources = [family for family in families if not waits[family]]
        sinks = [family for family in families if not signals[family]]
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
