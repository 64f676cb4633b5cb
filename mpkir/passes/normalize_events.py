"""normalize-events: at most one wait and one signal for each task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block
from xdsl.passes import ModulePass

from mpkir.analysis.dependence import connected
from mpkir.analysis.families import Family, Ints
from mpkir.analysis.labels import fit
from mpkir.dialects import task
from mpkir.passes.event_graph import EventGraph, Tensor, Tie


def _families(ties: list[Tie]) -> frozenset[Family]:
    return frozenset(tie.family for tie in ties)


def _tie_of(ties: list[Tie], family: Family) -> Tie:
    return next(tie for tie in ties if tie.family is family)


def _shared(ties: list[Tie]) -> Iterator[tuple[Tie, Tie]]:
    """Each tie of a family that has several with the first of them."""
    first: dict[Family, Tie] = {}
    for tie in ties:
        if (known := first.setdefault(tie.family, tie)) is not tie:
            yield known, tie


def _unite_counters(tensor: Tensor) -> None:
    """Let counters that one task would need together become one."""
    pairs = [*_shared(tensor.signals), *_shared(tensor.waits)]
    if not pairs:
        return
    left = np.concatenate([a.counter for a, _ in pairs])
    right = np.concatenate([b.counter for _, b in pairs])
    _, number = np.unique(connected(tensor.counters, left, right), return_inverse=True)
    tensor.coarsen(number)


def _join(a: Tensor, b: Tensor) -> None:
    """Make `a` stand for both."""
    b.renumber(np.arange(b.counters) + a.counters, a.counters + b.counters)
    a.signals, a.waits, a.counters = a.signals + b.signals, a.waits + b.waits, b.counters
    a.excess += b.excess
    _unite_counters(a)


def _join_equal_sets(
    tensors: list[Tensor], key: Callable[[Tensor], frozenset[Family]]
) -> list[Tensor]:
    """Join tensors that the same families wait for (or signal), though by other maps."""
    groups: dict[object, Tensor] = {}
    for tensor in tensors:
        known = groups.setdefault((tensor.kind, key(tensor) or tensor), tensor)
        if known is not tensor:
            _join(known, tensor)
    return list(groups.values())


def _keep(target: Tensor, wanted: Ints) -> Ints:
    """Leave a tensor the counters that are signalled, or `wanted`; the new number of each, -1 for
    none."""
    used = np.unique(np.concatenate([wanted, *(tie.counter for tie in target.ties)]))
    number = np.full(target.counters, -1, np.int64)
    number[used] = np.arange(len(used))
    target.renumber(number, len(used))
    return number


@dataclass
class _Normalizer:
    """A graph whose families get join families where they wait for or signal several events."""

    graph: EventGraph
    position: dict[Family, float] = field(default_factory=dict[Family, float])
    joins: list[Family] = field(default_factory=list[Family])

    def run(self) -> None:
        """Normalize every family."""
        graph = self.graph
        self.position = {family: float(n) for n, family in enumerate(graph.order())}
        for tensor in graph.tensors:
            _unite_counters(tensor)
        graph.tensors = _join_equal_sets(graph.tensors, lambda t: _families(t.waits))
        graph.tensors = _join_equal_sets(graph.tensors, lambda t: _families(t.signals))
        for family in sorted(graph.families, key=self.position.__getitem__):
            self.one_wait(family, [t for t in graph.tensors if family in _families(t.waits)])
        for family in sorted(graph.families, key=self.position.__getitem__):
            self.one_signal(family, [t for t in graph.tensors if family in _families(t.signals)])

    def last_signal(self, tensor: Tensor) -> float:
        return max(self.position[tie.family] for tie in tensor.signals)

    def first_wait(self, tensor: Tensor) -> float:
        """Where the first family stands that waits in the same step."""
        if tensor.lag or not tensor.waits:
            return float("inf")
        return min(self.position[tie.family] for tie in tensor.waits)

    def may_follow(self, source: Tensor, target: Tensor) -> bool:
        """Whether `target` may fire after `source` without waiting for itself."""
        return source.lag > 0 or self.last_signal(source) < self.first_wait(target)

    def one_wait(self, family: Family, waits: list[Tensor]) -> None:
        """Let all but one of the events that a family waits for signal that one."""
        if len(waits) < 2:
            return
        legal = [
            tensor
            for tensor in waits
            if tensor.lag == 0 and all(self.may_follow(o, tensor) for o in waits if o is not tensor)
        ]
        # Best is an event whose other waiters wait for all the rest too; they need no join then.
        fitting = [
            tensor
            for tensor in legal
            if all(_families(tensor.waits) <= _families(other.waits) for other in waits)
        ]
        # The event that comes last needs the hop of a join least.
        target = max(fitting or legal, key=self.last_signal, default=None)
        if target is None:
            target = self.fresh()
            target.waits.append(Tie(family, np.zeros(family.size, np.int64)))
        for source in waits:
            if source is target:
                continue
            tie = _tie_of(source.waits, family)
            source.waits.remove(tie)
            self.relay(source, target, tie.counter, _tie_of(target.waits, family).counter, family)

    def one_signal(self, family: Family, signals: list[Tensor]) -> None:
        """Let one of the events that a family signals signal the others."""
        if len(signals) < 2:
            return
        legal = [
            tensor
            for tensor in signals
            if tensor.lag == 0
            and all(self.may_follow(tensor, o) for o in signals if o is not tensor)
        ]
        fitting = [tensor for tensor in legal if len(tensor.signals) == 1]
        source = min(fitting or legal, key=self.first_wait, default=None)
        if source is None:
            source = self.fresh()
            source.signals.append(Tie(family, np.zeros(family.size, np.int64)))
        for target in signals:
            if target is source:
                continue
            tie = _tie_of(target.signals, family)
            target.signals.remove(tie)
            given, wanted = _tie_of(source.signals, family).counter, tie.counter
            # The end of a step does not come after a join whose signal nobody waits for.
            heard = np.isin(wanted, target.awaited)
            wanted = _keep(target, wanted[heard])[wanted[heard]]
            if len(wanted):
                self.relay(source, target, given[heard], wanted, family)
        self.graph.tensors = [tensor for tensor in self.graph.tensors if any(tensor.ties)]

    def fresh(self) -> Tensor:
        """A new event of one counter."""
        names = {tensor.name for tensor in self.graph.tensors}
        number = len(names)
        while f"j{number}" in names:
            number += 1
        tensor = Tensor(f"j{number}", 1, 0)
        self.graph.tensors.append(tensor)
        return tensor

    def relay(
        self, source: Tensor, target: Tensor, given: Ints, wanted: Ints, family: Family
    ) -> None:
        """Let counter `given[i]` of the source reach counter `wanted[i]` of the target, by a family
        of empty tasks of which each waits for one and signals the other.

        Where no affine maps can say the pairs, a counter of the source goes to one of the target,
        so that some of those fall together.
        """
        pairs = np.unique(np.stack([given, wanted], axis=1), axis=0)
        wants = set(zip(pairs[:, 0].tolist(), pairs[:, 1].tolist(), strict=True))
        if any(wants <= self.relayed(join, source, target) for join in self.joins):
            return
        ways = [pairs, pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]]
        says = next((way for way in ways if self.has_maps(way, source, target)), None)
        if says is None:
            nodes = source.counters + target.counters
            roots = connected(nodes, given, wanted + source.counters)
            _, number = np.unique(roots[source.counters :], return_inverse=True)
            target.coarsen(number)
            goes = np.full(source.counters, -1, np.int64)
            goes[given] = number[wanted]
            reached = np.flatnonzero(goes >= 0)
            nearest = np.where(goes >= 0, np.arange(len(goes)), reached[0])
            goes = goes[np.maximum.accumulate(nearest)]
            says = np.stack([np.arange(source.counters), goes], axis=1)
        join = self.join(source, len(says), family)
        source.waits.append(Tie(join, says[:, 0]))
        target.signals.append(Tie(join, says[:, 1]))

    @staticmethod
    def has_maps(pairs: Ints, source: Tensor, target: Tensor) -> bool:
        """Whether affine maps give the counters of a row of joins."""
        grid, columns = (len(pairs),), (pairs[:, 0], pairs[:, 1])
        return all(
            fit(column, grid, tensor.counters) is not None
            for column, tensor in zip(columns, (source, target), strict=True)
        )

    @staticmethod
    def relayed(join: Family, source: Tensor, target: Tensor) -> set[tuple[int, int]]:
        """Which counters of the target a join family signals after which of the source."""
        waits = [tie.counter.tolist() for tie in source.waits if tie.family is join]
        signals = [tie.counter.tolist() for tie in target.signals if tie.family is join]
        return set(zip(waits[0], signals[0], strict=True)) if waits and signals else set()

    def join(self, source: Tensor, size: int, family: Family) -> Family:
        """A family of empty tasks, placed after the last signal of `source`."""
        after = max((tie.family for tie in source.signals), key=self.position.__getitem__)
        names = {f.name for f in (*self.graph.families, *self.joins)}
        name, number = f"{family.name}.join", 1
        while name in names:
            number += 1
            name = f"{family.name}.join{number}"
        op = task.GridOp(name, [size], [], [], [], Block([task.YieldOp()]))
        op.location = family.op.location
        block = after.op.parent
        assert block is not None
        block.insert_ops_after([op], after.op)
        join = Family(len(self.graph.families) + len(self.joins), op, ())
        self.position[join] = self.position[after] + 2.0 ** -(2 + len(self.joins))
        self.joins.append(join)
        return join


@dataclass(frozen=True)
class NormalizeEventsPass(ModulePass):
    """Leave every task at most one event to wait for and one to signal.

    Events with the same families of waiters, or of signallers, become one; a task may then wait for
    more than it has to, never for less. For what remains, families of empty tasks pass one event on
    to another; one family serves all whose waits it brings together. None signals a counter that
    nobody waits for.
    """

    name = "mpk-normalize-events"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        normalizer = _Normalizer(EventGraph.read(op))
        normalizer.run()
        graph = normalizer.graph
        EventGraph((*graph.families, *normalizer.joins), graph.tensors).write(op)
