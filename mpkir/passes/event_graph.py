"""The events of a module as a graph that passes rewrite: tensors of counters, tied to families.

A tie says for every task of a family which counter it uses. Counters are integers here, so that
groups can be split, joined and renumbered freely; affine maps are found again when the graph is
written back, and where there is none a tensor falls together into one counter, which only makes
tasks wait for more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, ModuleOp
from xdsl.ir.affine import AffineMap

from mpkir.analysis.families import Family, Ints, evaluate, families_of
from mpkir.analysis.flag_edges import flagged_pairs
from mpkir.analysis.labels import fit
from mpkir.dialects import event
from mpkir.dialects.mesh import ranks_of
from mpkir.errors import MpkirError


@dataclass(eq=False)
class Tie:
    """How the tasks of one family use an event tensor."""

    family: Family
    counter: Ints
    """Counter of each task, row-major in the grid."""
    given: AffineMap | None = None
    """A map that says so, if one is known."""

    def map(self, counters: int) -> AffineMap | None:
        """A map to one of so many counters; None if there is none of the form that is tried."""
        return self.given or fit(self.counter, self.family.op.grid, counters)

    def renumbered(self, number: Ints) -> Tie:
        """The same with counter c as `number[c]`."""
        counter = number[self.counter]
        same = np.array_equal(counter, self.counter)
        return Tie(self.family, counter, self.given if same else None)

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
    handoff: event.Handoff = event.Handoff.COUNTER
    excess: int = 0
    """Pairs of tasks that it orders though nothing asks for that."""
    signals: list[Tie] = field(default_factory=list[Tie])
    waits: list[Tie] = field(default_factory=list[Tie])

    @property
    def kind(self) -> tuple[int, event.Handoff]:
        """What tensors that become one have in common."""
        return self.lag, self.handoff

    @property
    def arrivals(self) -> Ints:
        """Signals of each counter in a step, by tasks of one rank."""
        return self._uses(self.signals)

    @property
    def awaited(self) -> Ints:
        """The counters that some task waits for, ascending."""
        return np.flatnonzero(self._uses(self.waits))

    @property
    def pairs(self) -> int:
        """Pairs of tasks of which one signals what the other waits for."""
        return int(self.arrivals @ self._uses(self.waits))

    @property
    def coarsened(self) -> tuple[int, int] | None:
        """The pairs that it orders and those that it has to, if these are fewer."""
        ordered = self.pairs
        return (ordered, ordered - self.excess) if 0 < self.excess < ordered else None

    def precedes_itself(self) -> bool:
        """Whether a family waits that is, or stands before, one that signals: though its tasks may
        use other counters, families then have no order.
        """
        return self.lag == 0 and max(
            (tie.family.number for tie in self.signals), default=-1
        ) >= min((tie.family.number for tie in self.waits), default=1 << 62)

    def _uses(self, ties: list[Tie]) -> Ints:
        result = np.zeros(self.counters, np.int64)
        for tie in ties:
            result += np.bincount(tie.counter, minlength=self.counters)
        return result

    @property
    def ties(self) -> Iterable[Tie]:
        """Signals, then waits."""
        return (*self.signals, *self.waits)

    def renumber(self, number: Ints, counters: int) -> None:
        """Counter c becomes `number[c]`; several may become one."""
        self.signals = [tie.renumbered(number) for tie in self.signals]
        self.waits = [tie.renumbered(number) for tie in self.waits]
        self.counters = counters

    def coarsen(self, number: Ints) -> None:
        """Let counters fall together: c becomes `number[c]`; notes what that orders besides."""
        before = self.pairs
        self.renumber(number, int(number.max()) + 1)
        self.signals, self.waits = united([], self.signals), united([], self.waits)
        self.excess += max(0, self.pairs - before)


Use: TypeAlias = tuple[Tensor, Tie]


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
            op.sym_name.data: Tensor(
                op.sym_name.data, op.counters.value.data, 0, op.handoff.data, _excess_of(op)
            )
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

    def waits(self) -> dict[Family, list[Use]]:
        """What each family waits for."""
        result: dict[Family, list[Use]] = {family: [] for family in self.families}
        for tensor in self.tensors:
            for tie in tensor.waits:
                result[tie.family].append((tensor, tie))
        return result

    def signals(self) -> dict[Family, list[Use]]:
        """What each family signals."""
        result: dict[Family, list[Use]] = {family: [] for family in self.families}
        for tensor in self.tensors:
            for tie in tensor.signals:
                result[tie.family].append((tensor, tie))
        return result

    def order(self) -> list[Family]:
        """The paper's Algorithm 1 on families: take an event that has fired, place the families
        that it releases, fire the events whose signallers are all placed. Flagged buffers are
        events too.

        Raises MpkirError if some families wait for each other.
        """
        pairs = flagged_pairs(self.families)
        readers: dict[Family, list[Family]] = {}
        for writer, reader in pairs:
            readers.setdefault(writer, []).append(reader)
        missing = {tensor: len(tensor.signals) for tensor in self.tensors}
        waits = {family: 0 for family in self.families}
        for tensor in self.tensors:
            for tie in tensor.waits:
                waits[tie.family] += not tensor.lag
        for _, reader in pairs:
            waits[reader] += 1
        signalled = self.signals()
        ready: deque[list[Family]] = deque()
        order: list[Family] = []

        def place(family: Family) -> None:
            order.append(family)
            for tensor, _ in signalled[family]:
                missing[tensor] -= 1
                if not missing[tensor] and not tensor.lag:
                    waiting = sorted(tensor.waits, key=lambda tie: tie.family.number)
                    ready.append([tie.family for tie in waiting])
            if family in readers:
                ready.append(readers[family])

        for family in self.families:
            if not waits[family]:
                place(family)
        while ready:
            for later in ready.popleft():
                waits[later] -= 1
                if not waits[later]:
                    place(later)
        if len(order) < len(self.families):
            stuck = next(family for family in self.families if waits[family])
            raise MpkirError("families wait for each other in a circle", where=f"@{stuck.name}")
        return order

    def write(self, module: ModuleOp) -> None:
        """Replace the module's event tensors and edges by the graph's."""
        waits: dict[Family, list[event.EdgeAttr]] = {family: [] for family in self.families}
        signals: dict[Family, list[event.EdgeAttr]] = {family: [] for family in self.families}
        for op in [op for op in module.walk() if isinstance(op, event.TensorOp)]:
            op.detach()
            op.erase()
        ops: list[event.TensorOp] = []
        for tensor in self.tensors:
            maps = [tie.map(tensor.counters) for tie in tensor.ties]
            if any(map is None for map in maps):
                tensor.coarsen(np.zeros(tensor.counters, np.int64))
                maps = [tie.map(1) for tie in tensor.ties]
            ranks = ranks_of(module) if tensor.handoff is event.Handoff.PEER else 1
            arrivals = (ranks * tensor.arrivals).tolist()
            each = arrivals[0] if len(set(arrivals)) == 1 else arrivals
            ops.append(
                event.TensorOp(tensor.name, tensor.counters, each, tensor.handoff, tensor.coarsened)
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


def _excess_of(op: event.TensorOp) -> int:
    if op.ordered is None or op.conflicting is None:
        return 0
    return op.ordered.value.data - op.conflicting.value.data


def _tie(family: Family, edge: event.EdgeAttr) -> Tie:
    map = edge.index.data
    return Tie(family, evaluate(map, family.coordinates)[:, 0], map)


def united(a: list[Tie], b: list[Tie]) -> list[Tie]:
    """The ties of both lists, each once."""
    result = list(a)
    for tie in b:
        if not any(tie.same_as(known) for known in result):
            result.append(tie)
    return result


def has_maps(tensor: Tensor) -> bool:
    """Whether affine maps can say all ties of a tensor, which are given as counters."""
    return all(tie.map(tensor.counters) is not None for tie in tensor.ties)


def merged(a: Tensor, b: Tensor, place: Ints) -> Tensor | None:
    """One tensor with the ties of both: counter c of `b` becomes counter `place[c]` of `a`, a new
    one where that is -1.

    None if affine maps cannot say its ties, neither in `a`'s numbering nor in `b`'s, or if families
    would wait for themselves.
    """
    new = place < 0
    place = np.where(new, a.counters + np.cumsum(new) - 1, place)
    counters = a.counters + int(new.sum())
    result = Tensor(
        a.name,
        counters,
        a.lag,
        a.handoff,
        a.excess + b.excess,
        united(a.signals, [tie.renumbered(place) for tie in b.signals]),
        united(a.waits, [tie.renumbered(place) for tie in b.waits]),
    )
    if result.precedes_itself():
        return None
    if has_maps(result):
        return result
    if len(place) != counters or len(set(place.tolist())) < counters:
        return None
    result.renumber(np.argsort(place), counters)
    return result if has_maps(result) else None
