"""Who runs which task when, and what it waits for: an event-level program's schedule, expanded.

Every rank runs the same schedule with workers of its own. A counter is as many *cells* as there are
places that cannot see each other's: one for each worker if the hand-off is local, one for each rank
if it is a counter, one in all if it is between peers. A task raises and waits for the cell of its
own place. Flags have no cells (see `flags`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import DenseArrayBase, ModuleOp

from mpkir.backends.interpreter.families import Family
from mpkir.backends.interpreter.ring import Ring, ring_of
from mpkir.dialects import event, task
from mpkir.dialects.event import Handoff
from mpkir.dialects.mesh import ranks_of
from mpkir.dialects.task import BufferKind, buffer_of
from mpkir.errors import MpkirError


@dataclass(frozen=True)
class PlannedTask:
    """One task of the schedule; it is run once a step."""

    family: Family
    index: int
    waits: tuple[tuple[int, int], ...]
    """(cell, lag)."""
    signals: tuple[int, ...]
    """Cells, each raised by one."""
    looks: tuple[tuple[int, int], ...]
    """(counter, lag) of waits by flag."""
    marks: tuple[int, ...]
    """Counters signalled by flag."""
    order: int
    """Place in program order, in which a task stands on each rank before the next: producers
    before their consumers."""
    rank: int
    fault: str | None
    """What it does that no machine lets it do."""
    may_stop: bool
    """Whether it appends a token that may end the loop."""

    @property
    def label(self) -> str:
        return self.family.label(self.index)


@dataclass(frozen=True)
class Schedule:
    """All tasks by worker, and all counters."""

    families: tuple[Family, ...]
    """Those of one rank; a planned task's is one of them, whatever its rank."""
    ranks: int
    workers: tuple[tuple[PlannedTask, ...], ...]
    """Of each rank the lists of its workers, then one of one task for each dynamic task."""
    arrivals: tuple[int, ...]
    """Of each cell in a step."""
    cells: tuple[str, ...]
    """Names of the cells, e.g. "@e7[3]"."""
    counters: tuple[str, ...]
    ring: Ring | None

    @classmethod
    def of(cls, module: ModuleOp, families: tuple[Family, ...]) -> Schedule:
        """Read the schedule of a module. MpkirError where its edges and placements do not fit
        together."""
        ranks = ranks_of(module)
        counters = _Counters(ranks)
        for op in module.walk():
            if isinstance(op, event.TensorOp):
                counters.add(op)
        ring = ring_of(module)
        faults = {family.name: _fault(family.op, ring) for family in families}
        cells = _Cells(counters)
        workers: list[tuple[PlannedTask, ...]] = []
        for rank in range(ranks):
            drafts = [
                _Draft(family, index, counters, rank)
                for family in families
                for index in range(family.size)
            ]
            counters.check_signals(drafts)
            number = {id(draft): order * ranks + rank for order, draft in enumerate(drafts)}
            lists = _by_worker(families, drafts)
            for worker, tasks in enumerate(lists, len(workers)):
                for draft in tasks:
                    draft.worker = worker
            workers += [
                tuple(
                    _planned(draft, number[id(draft)], cells, faults[draft.family.name])
                    for draft in tasks
                )
                for tasks in lists
            ]
        return cls(
            families,
            ranks,
            tuple(workers),
            tuple(cells.arrivals),
            tuple(cells.names),
            tuple(counters.names),
            ring,
        )


class _Counters:
    """All counters, and for each how it hands over."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.first: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.names: list[str] = []
        self.arrivals: list[int] = []
        self.handoffs: list[Handoff] = []

    def add(self, op: event.TensorOp) -> None:
        name, count = op.sym_name.data, op.counters.value.data
        self.first[name], self.sizes[name] = len(self.names), count
        self.names += [f"@{name}[{i}]" for i in range(count)]
        self.arrivals += op.arrivals_of_each
        self.handoffs += [op.handoff.data] * count

    def of(self, edge: event.EdgeAttr, family: Family, coordinates: Sequence[int]) -> int:
        """The counter that the task at these coordinates uses."""
        if edge.symbol not in self.first:
            raise MpkirError(f"@{family.name} uses event @{edge.symbol}, which does not exist")
        index = edge.counter(coordinates)
        if not 0 <= index < self.sizes[edge.symbol]:
            raise MpkirError(
                f"@{family.name} at {tuple(coordinates)} uses counter {index} of event "
                f"@{edge.symbol}, which has {self.sizes[edge.symbol]}"
            )
        return self.first[edge.symbol] + index

    def check_signals(self, drafts: Sequence[_Draft]) -> None:
        """Each counter must get as many signals a step as it says, or it fires late, early or
        never; `drafts` are one rank's, and all are alike."""
        signals = [0] * len(self.arrivals)
        for draft in drafts:
            for counter in draft.signals:
                signals[counter] += self.ranks if self.handoffs[counter] is Handoff.PEER else 1
        for name, wanted, found in zip(self.names, self.arrivals, signals, strict=True):
            if wanted != found:
                raise MpkirError(f"event {name} wants {wanted} arrivals a step and gets {found}")


class _Draft:
    """A task with its counters, not yet placed."""

    def __init__(self, family: Family, index: int, counters: _Counters, rank: int) -> None:
        self.family, self.index, self.rank = family, index, rank
        at = family.op.coordinates(index)
        self.waits = [(counters.of(e, family, at), e.lag.data) for e in family.op.waits or ()]
        self.signals = [counters.of(e, family, at) for e in family.op.signals or ()]
        self.worker = 0
        """Of those of all ranks."""


class _Cells:
    """The cells of counters, made as they are used."""

    def __init__(self, counters: _Counters) -> None:
        self.counters = counters
        self.arrivals: list[int] = []
        self.names: list[str] = []
        self._numbers: dict[tuple[int, int], int] = {}

    def of(self, counter: int, draft: _Draft) -> int:
        """The cell of a counter where this task runs."""
        handoff = self.counters.handoffs[counter]
        place = 0
        if handoff is Handoff.LOCAL:
            place = draft.worker
        elif handoff is Handoff.COUNTER:
            place = draft.rank
        if (counter, place) not in self._numbers:
            self._numbers[counter, place] = len(self.names)
            self.names.append(self.counters.names[counter])
            self.arrivals.append(self.counters.arrivals[counter])
        return self._numbers[counter, place]

    def is_flag(self, counter: int) -> bool:
        return self.counters.handoffs[counter] is Handoff.FLAG


def _planned(draft: _Draft, order: int, cells: _Cells, fault: str | None) -> PlannedTask:
    op = draft.family.op
    looks = tuple((c, lag) for c, lag in draft.waits if cells.is_flag(c))
    if looks and op.dynamic is not None:
        fault = fault or "is never released: nobody but a waiter looks at flags"
    if cells.counters.ranks > 1 and op.dynamic is not None:
        fault = fault or "runs on any rank, whichever completes its event"
    stops = (inner.properties.get("stop") for inner in op.body.block.ops)
    return PlannedTask(
        draft.family,
        draft.index,
        tuple((cells.of(c, draft), lag) for c, lag in draft.waits if not cells.is_flag(c)),
        tuple(cells.of(c, draft) for c in draft.signals if not cells.is_flag(c)),
        looks,
        tuple(c for c in draft.signals if cells.is_flag(c)),
        order,
        draft.rank,
        fault,
        any(isinstance(stop, DenseArrayBase) and bool(stop.data.data) for stop in stops),
    )


def _fault(op: task.GridOp, ring: Ring | None) -> str | None:
    """What the tasks of a family do that no machine lets them do, if anything."""
    for value in op.writes:
        if buffer_of(value).kind.data in (BufferKind.WEIGHT, BufferKind.INPUT):
            return f"writes {buffer_of(value).sym.data!r}, which is constant"
    for value, box in zip((*op.reads, *op.writes), op.boxes.data, strict=True):
        places = (box.offsets_at(op.coordinates(index)) for index in range(op.size))
        if any(min(place, default=0) < 0 for place in places):
            return f"touches {buffer_of(value).sym.data!r} before its first element"
    if op.stream is None:
        return None
    if ring is None or op.dynamic is not None:
        return "streams its weights, which no loader brings"
    return ring.fault(op)


def _by_worker(families: Sequence[Family], drafts: Sequence[_Draft]) -> list[list[_Draft]]:
    """Each worker's list, then a list for each dynamic task; without a placement, one for each
    task."""
    placed = [family for family in families if family.op.workers is not None]
    if not placed:
        return [[draft] for draft in drafts]
    lists: dict[int, dict[int, _Draft]] = {}
    alone: list[list[_Draft]] = []
    rest = iter(drafts)
    for family in families:
        workers, slots = family.op.workers, family.op.slots
        group = [next(rest) for _ in range(family.size)]
        if family.op.dynamic is not None:
            alone += [[draft] for draft in group]
            continue
        if workers is None or slots is None:
            raise MpkirError(
                f"@{family.name} has no workers or slots, though @{placed[0].name} has"
            )
        places = zip(group, workers.get_values(), slots.get_values(), strict=True)
        for draft, worker, slot in places:
            other = lists.setdefault(worker, {}).setdefault(slot, draft)
            if other is not draft:
                raise MpkirError(
                    f"{other.family.label(other.index)} and {family.label(draft.index)} both have "
                    f"slot {slot} of worker {worker}"
                )
    by_slot = (lists.get(worker, {}) for worker in range(max(lists) + 1))
    return [[each[slot] for slot in sorted(each)] for each in by_slot] + alone
