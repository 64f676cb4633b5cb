"""The events of a module as a graph that passes rewrite: tensors of counters, tied to families.

A tie says for every task of a family which counter it uses. Counters are integers here, so that
groups can be split, joined and renumbered freely; affine maps are found again when the graph is
written back, and where there is none a tensor falls together into one counter, which only makes
tasks wait for more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, ModuleOp

from mpkir.analysis.families import Family, Ints, evaluate, families_of
from mpkir.analysis.labels import fit
from mpkir.dialects import event


@dataclass(eq=False)
class Tie:
    """How the tasks of one family use an event tensor."""

    family: Family
    counter: Ints
    """Counter of each task, row-major in the grid."""

    def same_as(self, other: Tie) -> bool:
        """Whether both mean the same counters of the same family."""
        return self.family is other.family and np.array_equal(self.counter, other.counter)


@dataclass(eq=False)
class Tensor:
    """An event tensor: the families that signal it and the families that wait for it."""

    name: str
    counters: int
    lag: int
    """Of all its waits: nothing waits for both this step's and the last step's firing."""
    signals: list[Tie] = field(default_factory=list[Tie])
    waits: list[Tie] = field(default_factory=list[Tie])

    @property
    def arrivals(self) -> Ints:
        """Signals of each counter in a step."""
        result = np.zeros(self.counters, np.int64)
        for tie in self.signals:
            result += np.bincount(tie.counter, minlength=self.counters)
        return result

    @property
    def ties(self) -> Iterable[Tie]:
        """Signals, then waits."""
        return (*self.signals, *self.waits)

    def renumber(self, number: Ints, counters: int) -> None:
        """Counter c becomes `number[c]`; several may become one."""
        for tie in self.ties:
            tie.counter = number[tie.counter]
        self.counters = counters

    def precedes_itself(self) -> bool:
        """Whether a family that waits stands before, or is, one that signals: a wait for ever."""
        return self.lag == 0 and max(tie.family.number for tie in self.signals) >= min(
            (tie.family.number for tie in self.waits), default=1 << 62
        )


@dataclass(eq=False)
class EventGraph:
    """All event tensors of a module."""

    families: tuple[Family, ...]
    tensors: list[Tensor]

    @staticmethod
    def read(module: ModuleOp) -> EventGraph:
        """The graph that a module's edges spell."""
        families = families_of(module)
        tensors = {
            op.sym_name.data: Tensor(op.sym_name.data, op.counters.value.data, 0)
            for op in module.walk()
            if isinstance(op, event.TensorOp)
        }
        for family in families:
            for edge in family.op.signals or ():
                tensors[edge.symbol].signals.append(_tie(family, edge))
            for edge in family.op.waits or ():
                tensors[edge.symbol].waits.append(_tie(family, edge))
                tensors[edge.symbol].lag = edge.lag.data
        return EventGraph(families, list(tensors.values()))

    def waits(self) -> dict[Family, list[Tensor]]:
        """The tensors that each family waits for."""
        result: dict[Family, list[Tensor]] = {family: [] for family in self.families}
        for tensor in self.tensors:
            for tie in tensor.waits:
                result[tie.family].append(tensor)
        return result

    def signals(self) -> dict[Family, list[Tensor]]:
        """The tensors that each family signals."""
        result: dict[Family, list[Tensor]] = {family: [] for family in self.families}
        for tensor in self.tensors:
            for tie in tensor.signals:
                result[tie.family].append(tensor)
        return result

    def write(self, module: ModuleOp) -> None:
        """Replace the module's event tensors and edges by the graph's."""
        waits: dict[Family, list[event.EdgeAttr]] = {family: [] for family in self.families}
        signals: dict[Family, list[event.EdgeAttr]] = {family: [] for family in self.families}
        for op in [op for op in module.walk() if isinstance(op, event.TensorOp)]:
            op.detach()
            op.erase()
        ops: list[event.TensorOp] = []
        for tensor in self.tensors:
            maps = [fit(t.counter, t.family.op.grid, tensor.counters) for t in tensor.ties]
            if any(map is None for map in maps):
                tensor.renumber(np.zeros(tensor.counters, np.int64), 1)
                maps = [fit(t.counter, t.family.op.grid, 1) for t in tensor.ties]
            arrivals = tensor.arrivals.tolist()
            same = len(set(arrivals)) == 1
            ops.append(
                event.TensorOp(tensor.name, tensor.counters, arrivals[0] if same else arrivals)
            )
            for tie, map in zip(tensor.ties, maps, strict=True):
                assert map is not None
                if tie in tensor.waits:
                    edge = event.EdgeAttr(tensor.name, map, tensor.lag)
                    waits[tie.family].append(edge)
                else:
                    signals[tie.family].append(event.EdgeAttr(tensor.name, map))
        first = self.families[0].op
        assert first.parent is not None
        first.parent.insert_ops_before(ops, first)
        for family in self.families:
            family.op.waits = ArrayAttr(waits[family]) if waits[family] else None
            family.op.signals = ArrayAttr(signals[family]) if signals[family] else None


def _tie(family: Family, edge: event.EdgeAttr) -> Tie:
    return Tie(family, evaluate(edge.index.data, family.coordinates)[:, 0])


def same_ties(a: list[Tie], b: list[Tie]) -> bool:
    """Whether two lists tie the same families to the same counters."""
    if len(a) != len(b):
        return False
    key = _number_of
    pairs = zip(sorted(a, key=key), sorted(b, key=key), strict=True)
    return all(x.same_as(y) for x, y in pairs)


def _number_of(tie: Tie) -> int:
    return tie.family.number


def united(a: list[Tie], b: list[Tie]) -> list[Tie] | None:
    """The ties of both lists, each family once; None if a family would need two counters."""
    result = list(a)
    for tie in b:
        known = next((t for t in result if t.family is tie.family), None)
        if known is None:
            result.append(tie)
        elif not known.same_as(tie):
            return None
    return result
