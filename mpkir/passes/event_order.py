"""Which tasks come before which by a graph's events, by classes: tasks in the same ties are one.

Sets of classes are bits of an integer; where ranks wait for each other, a class has two, its tasks
on the own rank and those on all (`mpkir.analysis.order`). The firing of an event of the step before
is a bit of its own, so that waits across steps compare like the others.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpkir.analysis.families import Family, Ints
from mpkir.analysis.order import on_all_ranks
from mpkir.dialects.event import Handoff
from mpkir.passes.event_graph import EventGraph, Tensor, Tie


class EventOrder:
    """The transitive closure of a graph; not changed when the graph is.

    Raises MpkirError if families wait for each other in a circle.
    """

    def __init__(self, graph: EventGraph) -> None:
        ties: dict[Family, list[Ints]] = {family: [] for family in graph.families}
        for tensor in graph.tensors:
            for tie in tensor.ties:
                ties[tie.family].append(tie.counter)
        self._first: dict[Family, int] = {}
        self._classes: dict[Family, Ints] = {}
        self.sizes: list[int] = []
        """Tasks of each class."""
        for family in graph.families:
            self._first[family] = len(self.sizes)
            self._classes[family], sizes = _classes(family.size, ties[family])
            self.sizes += sizes
        self._stride = 1 + any(t.handoff is Handoff.PEER for t in graph.tensors)
        self._classes_end = self._stride * len(self.sizes)
        self.before: list[int] = [0] * len(self.sizes)
        """Of each class the classes before it."""
        self._last: dict[Tensor, list[int]] = {}
        tokens = self._classes_end
        told = {tensor: [0] * tensor.counters for tensor in graph.tensors}
        for tensor in graph.tensors:
            if tensor.lag:
                self._last[tensor] = [1 << (tokens + c) for c in range(tensor.counters)]
                told[tensor] = self._last[tensor]
                tokens += tensor.counters
        waits, signals = graph.waits(), graph.signals()
        for family in graph.order():
            for tensor, tie in waits[family]:
                for node, counter in self.uses(tie):
                    self.before[node] |= told[tensor][counter]
            for tensor, tie in signals[family]:
                if not tensor.lag:
                    for node, counter in self.uses(tie):
                        known = self.bit(node) | self.before[node]
                        told[tensor][counter] |= self.passed_on(tensor, known)

    def bit(self, node: int) -> int:
        """A class, on the own rank."""
        return 1 << self._stride * node

    def passed_on(self, tensor: Tensor, known: int) -> int:
        """What those know who wait for tasks that know this, by a tensor: between peers, for the
        tasks of all ranks.
        """
        if tensor.handoff is not Handoff.PEER:
            return known
        classes = known & ((1 << self._classes_end) - 1)
        return known | on_all_ranks(classes)

    def uses(self, tie: Tie) -> Iterator[tuple[int, int]]:
        """Each class of a tie's family with its counter."""
        counters: list[int] = tie.counter[self._classes[tie.family]].tolist()
        return enumerate(counters, self._first[tie.family])

    def closure(self, tensor: Tensor) -> list[int]:
        """For each counter all that is done when it has fired in a step."""
        result = [0] * tensor.counters
        for tie in tensor.signals:
            for node, counter in self.uses(tie):
                result[counter] |= self.passed_on(tensor, self.bit(node) | self.before[node])
        return result

    def signallers(self, tensor: Tensor) -> list[int]:
        """For each counter those who signal it."""
        result = [0] * tensor.counters
        for tie in tensor.signals:
            for node, counter in self.uses(tie):
                result[counter] |= self.passed_on(tensor, self.bit(node))
        return result

    def told(self, tensor: Tensor) -> list[int]:
        """What one knows to be done after waiting for each counter."""
        return self._last[tensor] if tensor.lag else self.closure(tensor)

    def asked(self, tensor: Tensor) -> list[int]:
        """What one waits for at each counter; the rest of what it tells follows from that."""
        return self._last[tensor] if tensor.lag else self.signallers(tensor)

    def pairs(self) -> int:
        """How many pairs of tasks of a rank are ordered."""
        sizes = np.zeros(self._classes_end, np.int64)
        sizes[:: self._stride] = self.sizes
        length = -(-len(sizes) // 8)
        mask = (1 << len(sizes)) - 1
        total = 0
        for size, before in zip(self.sizes, self.before, strict=True):
            row = np.frombuffer((before & mask).to_bytes(length, "little"), np.uint8)
            bits = np.unpackbits(row, count=len(sizes), bitorder="little")
            total += size * int(sizes @ bits)
        return total


def _classes(size: int, labels: list[Ints]) -> tuple[Ints, list[int]]:
    """One task of each class, and the classes' sizes."""
    if not labels:
        return np.zeros(1, np.int64), [size]
    _, first, sizes = np.unique(
        np.stack(labels, axis=1), axis=0, return_index=True, return_counts=True
    )
    return first, sizes.tolist()
