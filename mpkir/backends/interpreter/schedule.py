"""Who runs which task when, and what it waits for: an event-level program's schedule, expanded.

A counter is as many *cells* as there are places that cannot see each other's: one for each worker
if the hand-off is local, one for each device if it is a counter, one in all if it is between peers.
A task raises and waits for the cell of its own place. Flags have no cells (see `flags`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import DenseArrayBase, IntegerAttr, ModuleOp

from mpkir.backends.interpreter.families import Family
from mpkir.backends.interpreter.ring import Ring, ring_of
from mpkir.dialects import event, task
from mpkir.dialects.event import Handoff
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
    """Place in program order: producers before their consumers."""
    device: int
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
    workers: tuple[tuple[PlannedTask, ...], ...]
    """The lists of the workers, then one of one task for each dynamic task."""
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
        counters = _Counters()
        for op in module.walk():
            if isinstance(op, event.TensorOp):
                counters.add(op)
        drafts = [
            _Draft(family, index, counters) for family in families for index in range(family.size)
        ]
        counters.check_signals(drafts)
        lists = _by_worker(families, drafts)
        ring = ring_of(module)
        _place(lists, module, counters)
        cells = _Cells(counters)
        number = {id(draft): order for order, draft in enumerate(drafts)}
        faults = {family.name: _fault(family.op, ring) for family in families}
        workers = tuple(
            tuple(
                _planned(draft, number[id(draft)], cells, faults[draft.family.name])
                for draft in tasks
            )
            for tasks in lists
        )
        return cls(
            families,
            workers,
            tuple(cells.arrivals),
            tuple(cells.names),
            tuple(counters.names),
            ring,
        )


class _Counters:
    """All counters, and for each how it hands over."""

    def __init__(self) -> None:
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
        never."""
        signals = [0] * len(self.arrivals)
        for draft in drafts:
            for counter in draft.signals:
                signals[counter] += 1
        for name, wanted, found in zip(self.names, self.arrivals, signals, strict=True):
            if wanted != found:
                raise MpkirError(f"event {name} wants {wanted} arrivals a step and gets {found}")


class _Draft:
    """A task with its counters, not yet placed."""

    def __init__(self, family: Family, index: int, counters: _Counters) -> None:
        self.family, self.index = family, index
        at = family.op.coordinates(index)
        self.waits = [(counters.of(e, family, at), e.lag.data) for e in family.op.waits or ()]
        self.signals = [counters.of(e, family, at) for e in family.op.signals or ()]
        self.worker = 0
        self.device = 0
        self.is_anywhere = False
        """Dynamic, and released on any of several devices."""


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
            place = draft.device
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
    stops = (inner.properties.get("stop") for inner in op.body.block.ops)
    return PlannedTask(
        draft.family,
        draft.index,
        tuple((cells.of(c, draft), lag) for c, lag in draft.waits if not cells.is_flag(c)),
        tuple(cells.of(c, draft) for c in draft.signals if not cells.is_flag(c)),
        looks,
        tuple(c for c in draft.signals if cells.is_flag(c)),
        order,
        draft.device,
        fault or _misplaced(draft),
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


def _misplaced(draft: _Draft) -> str | None:
    """What a task does that is not possible on its device, if anything."""
    if draft.is_anywhere:
        return "runs on one of several devices, whichever completes its event"
    for value in draft.family.op.reads:
        if buffer_of(value).device.value.data != draft.device:
            return f"reads {buffer_of(value).sym.data!r}, which lies on another device"
    return None


def _place(lists: Sequence[Sequence[_Draft]], module: ModuleOp, counters: _Counters) -> None:
    """Tell every task its worker and its device."""
    devices = module.attributes.get("mpk.devices")
    count = devices.value.data if isinstance(devices, IntegerAttr) else 1
    placed = module.attributes.get("mpk.workers")
    workers = placed.value.data if isinstance(placed, IntegerAttr) else len(lists)
    if workers % count:
        raise MpkirError(f"{workers} workers cannot be shared equally by {count} devices")
    devices_of: dict[int, set[int]] = {}
    for worker, tasks in enumerate(lists):
        for draft in tasks:
            draft.worker = worker
            if draft.family.op.dynamic is None:
                draft.device = worker // (workers // count)
                for counter in draft.signals:
                    devices_of.setdefault(counter, set()).add(draft.device)
    for tasks in lists:
        for draft in tasks:
            if draft.family.op.dynamic is not None:
                # Whoever completes the event that releases it has the task on its device.
                released = [devices_of.get(c, set[int]()) for c, lag in draft.waits if not lag]
                found = set[int]().union(*released)
                draft.device = min(found, default=0)
                draft.is_anywhere = len(found) > 1
                for counter in draft.signals:
                    devices_of.setdefault(counter, set()).add(draft.device)


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
