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
from mpkir.dialects import task
from mpkir.passes.event_graph import EventGraph, Tensor, Tie


def _families(ties: list[Tie]) -> frozenset[int]:
    return frozenset(id(tie.family) for tie in ties)


def _tie_of(ties: list[Tie], family: Family) -> Tie:
    return next(tie for tie in ties if tie.family is family)


def _shared(a: list[Tie], b: list[Tie]) -> Iterator[tuple[Tie, Tie]]:
    """The ties of families that both lists have."""
    for tie in a:
        yield from ((tie, other) for other in b if other.family is tie.family)


def _join(a: Tensor, b: Tensor) -> None:
    """Make `a` stand for both: counters that one task would need together become one."""
    pairs = [*_shared(a.signals, b.signals), *_shared(a.waits, b.waits)]
    left = np.concatenate([x.counter for x, _ in pairs])
    right = np.concatenate([y.counter for _, y in pairs]) + a.counters
    roots = connected(a.counters + b.counters, left, right)
    _, number = np.unique(roots, return_inverse=True)
    counters = int(number.max()) + 1
    b.renumber(number[a.counters :], counters)
    a.renumber(number[: a.counters], counters)
    for mine, others in ((a.signals, b.signals), (a.waits, b.waits)):
        known = _families(mine)
        mine += [tie for tie in others if id(tie.family) not in known]


def _join_equal_sets(
    tensors: list[Tensor], key: Callable[[Tensor], frozenset[int]]
) -> list[Tensor]:
    """Join tensors that the same families wait for (or signal), though by other maps."""
    groups: dict[tuple[int, frozenset[int]], Tensor] = {}
    for tensor in tensors:
        known = groups.setdefault((tensor.lag, key(tensor)), tensor)
        if known is not tensor:
            _join(known, tensor)
    return list(groups.values())


@dataclass
class _Normalizer:
    """A graph whose families get join families where they wait for or signal several events."""

    graph: EventGraph
    position: dict[Family, float] = field(default_factory=dict[Family, float])
    joins: list[Family] = field(default_factory=list[Family])

    def run(self) -> None:
        """Normalize every family."""
        graph = self.graph
        self.position = {family: float(family.number) for family in graph.families}
        graph.tensors = _join_equal_sets(graph.tensors, lambda t: _families(t.waits))
        graph.tensors = _join_equal_sets(graph.tensors, lambda t: _families(t.signals))
        for family, tensors in graph.waits().items():
            self.one_wait(family, tensors)
        for family, tensors in self.signals().items():
            self.one_signal(family, tensors)

    def signals(self) -> dict[Family, list[Tensor]]:
        """The tensors that each family signals, join families left out: they signal one."""
        joins = set(self.joins)
        families = (*self.graph.families, *self.joins)
        signals = EventGraph(families, self.graph.tensors).signals()
        return {family: each for family, each in signals.items() if family not in joins}

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
        alone = [tensor for tensor in waits if len(tensor.waits) == 1]
        legal = [
            tensor
            for tensor in waits
            if tensor.lag == 0 and all(self.may_follow(o, tensor) for o in waits if o is not tensor)
        ]
        # The event that comes last needs the hop of a join least.
        target = max(alone or legal, key=self.last_signal, default=None)
        if target is None or target not in legal:
            target = self.fresh(family)
            target.waits.append(Tie(family, np.zeros(family.size, np.int64)))
        wanted = _tie_of(target.waits, family)
        for source in waits:
            if source is target:
                continue
            tie = _tie_of(source.waits, family)
            source.waits.remove(tie)
            self.relay(source, target, tie.counter, wanted, family)

    def one_signal(self, family: Family, signals: list[Tensor]) -> None:
        """Let one of the events that a family signals signal the others."""
        if len(signals) < 2:
            return
        alone = [tensor for tensor in signals if len(tensor.signals) == 1]
        legal = [
            tensor
            for tensor in signals
            if tensor.lag == 0
            and all(self.may_follow(tensor, o) for o in signals if o is not tensor)
        ]
        source = min(alone or legal, key=self.first_wait, default=None)
        if source is None or source not in legal:
            source = self.fresh(family)
            source.signals.append(Tie(family, np.zeros(family.size, np.int64)))
        tie = _tie_of(source.signals, family)
        for target in signals:
            if target is source:
                continue
            wanted = _tie_of(target.signals, family)
            target.signals.remove(wanted)
            self.relay(source, target, tie.counter, wanted, family)

    def fresh(self, family: Family) -> Tensor:
        """A new event of one counter."""
        names = {tensor.name for tensor in self.graph.tensors}
        number = len(names)
        while f"j{number}" in names:
            number += 1
        tensor = Tensor(f"j{number}", 1, 0)
        self.graph.tensors.append(tensor)
        return tensor

    def relay(
        self, source: Tensor, target: Tensor, given: Ints, wanted: Tie, family: Family
    ) -> None:
        """Add a family of empty tasks, one for each counter of `source`, that signal `target`.

        For each task of `family`, counter `given` of the source has to reach counter `wanted` of
        the target; a counter of the source goes to one of the target, so some of those may fall
        together.
        """
        nodes = source.counters + target.counters
        roots = connected(nodes, given, wanted.counter + source.counters)
        _, number = np.unique(roots[source.counters :], return_inverse=True)
        goes = np.full(source.counters, -1, np.int64)
        goes[given] = number[wanted.counter]
        target.renumber(number, int(number.max()) + 1)
        if wanted not in target.waits:
            wanted.counter = number[wanted.counter]
        known = np.flatnonzero(goes >= 0)
        nearest = np.maximum.accumulate(np.where(goes >= 0, np.arange(len(goes)), known[0]))
        join = self.join(source, family)
        source.waits.append(Tie(join, np.arange(source.counters)))
        target.signals.append(Tie(join, goes[nearest]))

    def join(self, source: Tensor, family: Family) -> Family:
        """An empty task for each counter of `source`, placed after its last signal."""
        after = max((tie.family for tie in source.signals), key=self.position.__getitem__)
        names = {f.name for f in (*self.graph.families, *self.joins)}
        name, number = f"{family.name}.join", 1
        while name in names:
            number += 1
            name = f"{family.name}.join{number}"
        op = task.GridOp(name, [source.counters], [], [], [], Block([task.YieldOp()]))
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
    to another.
    """

    name = "mpk-normalize-events"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        normalizer = _Normalizer(EventGraph.read(op))
        normalizer.run()
        graph = normalizer.graph
        EventGraph((*graph.families, *normalizer.joins), graph.tensors).write(op)
