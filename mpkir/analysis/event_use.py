"""The events of a module as arrays: which counter each task waits for and signals, and how often
that has to be executed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, ModuleOp

from mpkir.analysis.execution import Listed, executed_of
from mpkir.analysis.families import Family, Ints, evaluate
from mpkir.analysis.flag_edges import FlagEdge, flag_edges_of
from mpkir.dialects import event
from mpkir.errors import MpkirError


@dataclass(frozen=True, eq=False)
class Use:
    """One edge of a family: the counter of each of its tasks, numbered over all event tensors."""

    family: int
    counter: Ints
    lag: int


@dataclass(frozen=True, eq=False)
class EventUse:
    """All waits and signals of a module."""

    families: tuple[Family, ...]
    counters: int
    waits: tuple[Use, ...]
    signals: tuple[Use, ...]
    flags: tuple[FlagEdge, ...] = ()
    """Through flagged buffers, without a counter."""
    peers: frozenset[int] = frozenset()
    """Counters that the tasks of all ranks signal."""

    @property
    def released(self) -> int:
        """Tasks that the counters release, counted for each counter."""
        return sum(len(use.counter) for use in self.waits)

    def ranges(self) -> int:
        """Ranges of tasks, consecutive in the linear order, that these lists consist of."""
        position = _positions(self.families)
        counter = np.concatenate([use.counter for use in self.waits])
        task = np.concatenate([position[use.family] for use in self.waits])
        order = np.lexsort((task, counter))
        breaks = (np.diff(counter[order]) != 0) | (np.diff(task[order]) != 1)
        return int(breaks.sum()) + 1

    def longest_chain(self) -> int:
        """Tasks of the longest sequence of a step in which each waits for the one before.

        Raises MpkirError if families wait for each other in a circle.
        """
        depth = [np.ones(family.size, np.int64) for family in self.families]
        fired = np.zeros(self.counters, np.int64)
        waits, signals = self._by_family(self.waits), self._by_family(self.signals)
        flags: list[list[FlagEdge]] = [[] for _ in self.families]
        for flag in self.flags:
            flags[flag.later.number].append(flag)
        for family in self.topological():
            for use in waits[family]:
                if not use.lag:
                    np.maximum(depth[family], fired[use.counter] + 1, out=depth[family])
            for flag in flags[family]:
                groups, written = flag.groups, np.zeros(flag.groups.count, np.int64)
                before = depth[flag.earlier.number][groups.source]
                np.maximum.at(written, groups.source_group, before)
                np.maximum.at(depth[family], groups.target, written[groups.target_group] + 1)
            for use in signals[family]:
                np.maximum.at(fired, use.counter, depth[family])
        return max((int(each.max()) for each in depth), default=0)

    def _by_family(self, uses: Sequence[Use]) -> list[list[Use]]:
        result: list[list[Use]] = [[] for _ in self.families]
        for use in uses:
            result[use.family].append(use)
        return result

    def topological(self) -> list[int]:
        """The families in an order in which each stands after all that it waits for."""
        waiting: dict[int, set[int]] = {}
        for use in self.waits:
            if not use.lag:
                for counter in np.unique(use.counter).tolist():
                    waiting.setdefault(counter, set()).add(use.family)
        after: list[set[int]] = [set() for _ in self.families]
        for use in self.signals:
            for counter in np.unique(use.counter).tolist():
                after[use.family] |= waiting.get(counter, set())
        for flag in self.flags:
            after[flag.earlier.number].add(flag.later.number)
        missing = [0] * len(self.families)
        for each in after:
            for family in each:
                missing[family] += 1
        ready = deque(f for f, count in enumerate(missing) if not count)
        order: list[int] = []
        while ready:
            order.append(family := ready.popleft())
            for later in sorted(after[family]):
                missing[later] -= 1
                if not missing[later]:
                    ready.append(later)
        if len(order) < len(self.families):
            stuck = next(f for f, count in zip(self.families, missing, strict=True) if count)
            raise MpkirError("families wait for each other in a circle", where=f"@{stuck.name}")
        return order

    def executed(self) -> tuple[int, int]:
        """Waits and signals that a step executes.

        In a scheduled module whose tasks wait for one event and signal one at most, those that the
        runtime table keeps; otherwise all.
        """
        every = self.released, sum(len(use.counter) for use in self.signals)
        placed = [f for f in self.families if f.op.workers is not None and f.op.slots is not None]
        several = max(_most(self.waits), _most(self.signals)) > 1
        if not placed or several:
            return every
        executed = executed_of(self.listed())
        return int(executed.waits.sum()), int((executed.amounts > 0).sum())

    def listed(self) -> Listed:
        """The tasks in their workers' order; families without places are given out by events."""
        offsets = np.cumsum([0, *(family.size for family in self.families)])
        columns = [np.full(offsets[-1], -1, np.int64) for _ in range(4)]
        worker, slot, wait, signal = columns
        lag = np.zeros(offsets[-1], np.int64)
        for number, family in enumerate(self.families):
            mine = slice(offsets[number], offsets[number + 1])
            if family.op.workers is not None and family.op.slots is not None:
                worker[mine] = family.op.workers.get_values()
                slot[mine] = family.op.slots.get_values()
        for use in self.waits:
            mine = slice(offsets[use.family], offsets[use.family + 1])
            wait[mine], lag[mine] = use.counter, use.lag
        for use in self.signals:
            signal[offsets[use.family] : offsets[use.family + 1]] = use.counter
        order = np.lexsort((slot, worker))
        return Listed(worker[order], wait[order], lag[order], signal[order], self.peers)


def _most(uses: Sequence[Use]) -> int:
    return max(np.bincount([use.family for use in uses]), default=0)


def _positions(families: Sequence[Family]) -> list[Ints]:
    """Place of each task in the linear order; that of the grids where no order is given."""
    result: list[Ints] = []
    end = 0
    for family in families:
        first = end if family.op.first is None else family.op.first.value.data
        given = family.op.order
        result.append(
            first + np.arange(family.size)
            if given is None
            else np.array(given.get_values(), np.int64)
        )
        end += family.size
    return result


def event_use_of(module: ModuleOp, families: tuple[Family, ...]) -> EventUse | None:
    """The events of a module's families; None if it has none."""
    first: dict[str, int] = {}
    counters = 0
    peers: set[int] = set()
    for op in module.walk():
        if isinstance(op, event.TensorOp):
            begin, counters = counters, counters + op.counters.value.data
            first[op.sym_name.data] = begin
            if op.handoff.data is event.Handoff.PEER:
                peers.update(range(begin, counters))
    if not counters:
        return None

    def uses(number: int, edges: ArrayAttr[event.EdgeAttr] | None) -> list[Use]:
        family = families[number]
        result: list[Use] = []
        for edge in edges or ():
            if edge.symbol not in first:
                raise MpkirError(
                    f"@{edge.symbol} is named by an edge; there is no such event",
                    where=f"@{family.name}",
                )
            counter = evaluate(edge.index.data, family.coordinates)[:, 0]
            result.append(Use(number, first[edge.symbol] + counter, edge.lag.data))
        return result

    numbers = range(len(families))
    return EventUse(
        families,
        counters,
        tuple(use for n in numbers for use in uses(n, families[n].op.waits)),
        tuple(use for n in numbers for use in uses(n, families[n].op.signals)),
        tuple(flag_edges_of(families)),
        frozenset(peers),
    )
