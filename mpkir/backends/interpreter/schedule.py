"""Who runs which task when, and what it waits for: an event-level program's schedule, expanded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp

from mpkir.backends.interpreter.families import Family
from mpkir.dialects import event
from mpkir.errors import MpkirError


@dataclass(frozen=True)
class PlannedTask:
    """One task of the schedule; it is run once a step."""

    family: Family
    index: int
    waits: tuple[tuple[int, int], ...]
    """(counter, lag)."""
    signals: tuple[int, ...]
    """Counters, each raised by one."""
    order: int
    """Place in program order: producers before their consumers."""

    @property
    def label(self) -> str:
        return self.family.label(self.index)


@dataclass(frozen=True)
class Schedule:
    """All tasks by worker, and all counters."""

    families: tuple[Family, ...]
    workers: tuple[tuple[PlannedTask, ...], ...]
    arrivals: tuple[int, ...]
    counters: tuple[str, ...]
    """Names of the counters, e.g. "@e7[3]"."""

    @classmethod
    def of(cls, module: ModuleOp, families: tuple[Family, ...]) -> Schedule:
        """Read the schedule of a module. MpkirError where its edges and placements do not fit
        together."""
        events = [op for op in module.walk() if isinstance(op, event.TensorOp)]
        first: dict[str, int] = {}
        arrivals: list[int] = []
        counters: list[str] = []
        for op in events:
            name = op.sym_name.data
            first[name] = len(arrivals)
            arrivals += op.arrivals_of_each
            counters += [f"@{name}[{i}]" for i in range(op.counters.value.data)]
        tasks = _tasks(families, first, {op.sym_name.data: op.counters.value.data for op in events})
        result = cls(families, _by_worker(families, tasks), tuple(arrivals), tuple(counters))
        result._check_signals()
        return result

    def _check_signals(self) -> None:
        """Each counter must get as many signals a step as it says, or it fires late, early or
        never."""
        signals = [0] * len(self.arrivals)
        for worker in self.workers:
            for planned in worker:
                for counter in planned.signals:
                    signals[counter] += 1
        for name, wanted, found in zip(self.counters, self.arrivals, signals, strict=True):
            if wanted != found:
                raise MpkirError(f"event {name} wants {wanted} arrivals a step and gets {found}")


def _tasks(
    families: Sequence[Family], first: dict[str, int], sizes: dict[str, int]
) -> list[list[PlannedTask]]:
    """The tasks of each family."""

    def counter(edge: event.EdgeAttr, family: Family, coordinates: Sequence[int]) -> int:
        if edge.symbol not in first:
            raise MpkirError(f"@{family.name} uses event @{edge.symbol}, which does not exist")
        index = edge.counter(coordinates)
        if not 0 <= index < sizes[edge.symbol]:
            raise MpkirError(
                f"@{family.name} at {tuple(coordinates)} uses counter {index} of event "
                f"@{edge.symbol}, which has {sizes[edge.symbol]}"
            )
        return first[edge.symbol] + index

    result: list[list[PlannedTask]] = []
    order = 0
    for family in families:
        waits, signals = family.op.waits or (), family.op.signals or ()
        tasks: list[PlannedTask] = []
        for index in range(family.size):
            at = family.op.coordinates(index)
            tasks.append(
                PlannedTask(
                    family,
                    index,
                    tuple((counter(edge, family, at), edge.lag.data) for edge in waits),
                    tuple(counter(edge, family, at) for edge in signals),
                    order,
                )
            )
            order += 1
        result.append(tasks)
    return result


def _by_worker(
    families: Sequence[Family], tasks: Sequence[Sequence[PlannedTask]]
) -> tuple[tuple[PlannedTask, ...], ...]:
    """Each worker's list; without a placement, a worker for each task."""
    placed = [family for family in families if family.op.workers is not None]
    if not placed:
        return tuple((planned,) for group in tasks for planned in group)
    lists: dict[int, dict[int, PlannedTask]] = {}
    for family, group in zip(families, tasks, strict=True):
        workers, slots = family.op.workers, family.op.slots
        if workers is None or slots is None:
            raise MpkirError(
                f"@{family.name} has no workers or slots, though @{placed[0].name} has"
            )
        for planned, worker, slot in zip(
            group, workers.get_values(), slots.get_values(), strict=True
        ):
            other = lists.setdefault(worker, {}).setdefault(slot, planned)
            if other is not planned:
                raise MpkirError(
                    f"{other.label} and {planned.label} both have slot {slot} of worker {worker}"
                )
    return tuple(
        tuple(by_slot[slot] for slot in sorted(by_slot))
        for by_slot in (lists.get(worker, {}) for worker in range(max(lists) + 1))
    )
