"""eliminate-dependencies: waits and signals that others imply go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from mpkir.analysis.families import Family
from mpkir.passes.event_graph import EventGraph, Tensor, Tie, Use
from mpkir.passes.event_order import EventOrder


class _Eliminator:
    """A graph that loses ties, and what its tasks knew at first, which never changes."""

    def __init__(self, graph: EventGraph) -> None:
        self.graph = graph
        self.order = EventOrder(graph)
        self.waits = graph.waits()
        self.told = {tensor: self.order.told(tensor) for tensor in graph.tensors}
        """What one knows after waiting for each counter, by the signals that are left."""
        self.place = {family: number for number, family in enumerate(graph.order())}

    def run(self) -> None:
        """Waits first: an event that nobody waits for any more needs no signals."""
        for family in self.graph.families:
            self.drop_waits(family)
        self.graph.tensors = [tensor for tensor in self.graph.tensors if tensor.waits]
        for tensor in self.graph.tensors:
            for tie in sorted(tensor.signals, key=lambda tie: self.place[tie.family]):
                if len(tensor.signals) > 1 and self.is_implied_signal(tensor, tie):
                    tensor.signals.remove(tie)
                    self.told[tensor] = self.order.told(tensor)

    def drop_waits(self, family: Family) -> None:
        """Drop what a family's other waits imply, beginning with what fires first."""
        uses = self.waits[family]
        for use in sorted(uses, key=lambda use: self.last_signal(use[0])):
            others = [other for other in uses if other is not use]
            if others and self.is_implied_wait(use, others):
                use[0].waits.remove(use[1])
                uses.remove(use)

    def last_signal(self, tensor: Tensor) -> int:
        """Where the last family stands that has to signal; before all if in the step before."""
        return -1 if tensor.lag else max(self.place[tie.family] for tie in tensor.signals)

    def known(self, uses: list[Use]) -> dict[int, int]:
        """What each class of a family knows by some of its waits."""
        result: dict[int, int] = {}
        for tensor, tie in uses:
            for node, counter in self.order.uses(tie):
                result[node] = result.get(node, 0) | self.told[tensor][counter]
        return result

    def is_implied_wait(self, use: Use, others: list[Use]) -> bool:
        """Whether a family's tasks know by other waits that all who signal a tie are done."""
        tensor, tie = use
        known, asked = self.known(others), self.order.asked(tensor)
        return all(not asked[counter] & ~known[node] for node, counter in self.order.uses(tie))

    def is_implied_signal(self, tensor: Tensor, tie: Tie) -> bool:
        """Whether each task of a tie is done before another that signals its counter, or known to
        be done by all who wait for that counter.
        """
        rest = [other for other in tensor.signals if other is not tie]
        arrivals = np.zeros(tensor.counters, np.int64)
        for other in rest:
            arrivals += np.bincount(other.counter, minlength=tensor.counters)
        if not arrivals.all():
            return False
        told = [0] * tensor.counters
        for other in rest:
            for node, counter in self.order.uses(other):
                told[counter] |= self.order.before[node]
        missing = [
            (node, counter)
            for node, counter in self.order.uses(tie)
            if not told[counter] & self.order.bit(node)
        ]
        return not missing or (
            not tensor.lag and all(self.all_waiters_know(tensor, *each) for each in missing)
        )

    def all_waiters_know(self, tensor: Tensor, node: int, counter: int) -> bool:
        """Whether whoever waits for a counter knows by other waits that a class is done."""
        asked = self.order.passed_on(tensor, self.order.bit(node))
        return all(not asked & ~known for known in self.waiters_known(tensor, counter))

    def waiters_known(self, tensor: Tensor, counter: int) -> Iterator[int]:
        """What each class that waits for a counter knows by its other waits."""
        for tie in tensor.waits:
            others = [use for use in self.waits[tie.family] if use[1] is not tie]
            known = self.known(others)
            for node, each in self.order.uses(tie):
                if each == counter:
                    yield known.get(node, 0)


@dataclass(frozen=True)
class EliminateDependenciesPass(ModulePass):
    """Drop waits and signals that order no pair of tasks which the others do not order too.

    A family stops waiting for an event if each of its tasks learns from its other waits, directly
    or through tasks in between, that all signallers are done; a family stops signalling an event if
    each of its tasks is done before another signaller, or if all waiters know of it otherwise.
    Events that nobody waits for go. The order of tasks stays exactly the same.
    """

    name = "mpk-eliminate-dependencies"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        graph = EventGraph.read(op)
        if graph.tensors:
            _Eliminator(graph).run()
            graph.write(op)
