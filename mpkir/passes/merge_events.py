"""merge-events: events that always fire together become one, and those of which one may wait for
the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from mpkir.passes.event_graph import EventGraph, Tensor, merged
from mpkir.passes.event_order import EventOrder


class _Merger:
    """A graph whose tensors are merged two at a time; the order of its tasks never changes."""

    def __init__(self, graph: EventGraph) -> None:
        self.graph = graph
        self.order = EventOrder(graph)

    def run(self) -> None:
        """Merge until nothing more can be."""
        while self.merge_together() or self.merge_shared():
            pass

    def replace(self, known: Tensor, tensor: Tensor, both: Tensor) -> None:
        """Put a merged tensor in the place of the first of the two."""
        tensors = self.graph.tensors
        tensors[tensors.index(known)] = both
        tensors.remove(tensor)

    def merge_together(self) -> bool:
        """Merge two tensors of which each counter of the second fires with one of the first: the
        same tasks are done then. The first's signals are enough for both.
        """
        firing: dict[int, list[tuple[Tensor, int]]] = {}
        for tensor in self.graph.tensors:
            closure = self.order.closure(tensor)
            for known, _ in firing.get(closure[0], ()):
                places = [
                    next((place for each, place in firing.get(c, ()) if each is known), -1)
                    for c in closure
                ]
                if min(places) < 0 or known.kind != tensor.kind:
                    continue
                waiting = replace(tensor, signals=[])
                both = merged(known, waiting, np.array(places, np.int64))
                if both is not None:
                    self.replace(known, tensor, both)
                    return True
            for counter, each in enumerate(closure):
                firing.setdefault(each, []).append((tensor, counter))
        return False

    def merge_shared(self) -> bool:
        """Merge one tensor into another that all its waiters wait for too, where the other's
        waiters come after its signallers anyway.
        """
        waits = self.graph.waits()
        for tensor in self.graph.tensors:
            if tensor.lag or not tensor.waits:
                continue
            for known, _ in waits[tensor.waits[0].family]:
                if known is tensor or known.kind != tensor.kind:
                    continue
                both = self.shared(known, tensor)
                if both is not None:
                    self.replace(known, tensor, both)
                    return True
        return False

    def shared(self, known: Tensor, tensor: Tensor) -> Tensor | None:
        """`known` with `tensor`'s signals too, if that makes no task wait for more."""
        place = np.full(tensor.counters, -1, np.int64)
        for tie in tensor.waits:
            theirs = [other for other in known.waits if other.family is tie.family]
            if len(theirs) != 1:
                return None
            place[tie.counter] = theirs[0].counter
        for tie in tensor.waits:
            theirs = next(other for other in known.waits if other.family is tie.family)
            if not np.array_equal(place[tie.counter], theirs.counter):
                return None
        added = [0] * known.counters
        for counter, signallers in enumerate(self.order.signallers(tensor)):
            if place[counter] >= 0:
                added[place[counter]] |= signallers
        for tie in known.waits:
            for node, counter in self.order.uses(tie):
                if added[counter] & ~self.order.before[node]:
                    return None
        return merged(known, replace(tensor, waits=[]), place)


@dataclass(frozen=True)
class MergeEventsPass(ModulePass):
    """Merge events where that orders no more tasks than before.

    Events that always fire together, because the same tasks are done when they fire, become one
    with the signals of one of them. An event whose waiters all wait for another one too becomes
    part of that, if the other's further waiters come after its signallers anyway: successor-set
    fusion up to what other events imply.
    """

    name = "mpk-merge-events"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        graph = EventGraph.read(op)
        _Merger(graph).run()
        graph.write(op)
