"""lower-dependencies: conflicting regions become events that order the tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, ModuleOp
from xdsl.ir.affine import AffineConstantExpr, AffineMap
from xdsl.passes import ModulePass

from mpkir.analysis.counters import Arrivals, Counters
from mpkir.analysis.dependence import Hazard
from mpkir.analysis.families import Access, Family, Ints, evaluate, families_of
from mpkir.analysis.flag_closure import FamilyLink, WholeFamilies, seen_in_parts
from mpkir.analysis.flag_edges import FlagEdge, family_edges, flag_edges_of
from mpkir.analysis.labels import constant_map
from mpkir.analysis.order import FamilyEdge, redundant_edges
from mpkir.analysis.orderings import BufferAccesses, Meeting, Ordering, orderings_of
from mpkir.dialects import event, task
from mpkir.dialects.mesh import ranks_of

END = "end"
"""The event that fires when all tasks of a step are done."""

MAX_TASKS = 1 << 16
"""Families of more tasks are never looked at task by task."""


@dataclass(frozen=True, eq=False)
class _Dependence:
    """A later family waits for an earlier one through counters chosen by two maps."""

    earlier: Family
    later: Family
    counters: Counters
    protects_only: bool
    """The later family writes what the earlier has read, and that is all."""
    crosses_ranks: bool
    """The tasks of any rank wait for those of all."""

    @classmethod
    def of(cls, ordering: Ordering) -> _Dependence:
        """The finest one for two families."""
        return cls(
            ordering.earlier,
            ordering.later,
            ordering.counters,
            ordering.hazards is Hazard.WRITE_AFTER_READ,
            any(meeting.crosses_ranks for meeting in ordering.meetings),
        )

    @property
    def edge(self) -> FamilyEdge | None:
        """The same as groups of tasks, if the families are small or all of their tasks alike."""
        signals = _groups(self.earlier, self.counters.signal)
        waits = _groups(self.later, self.counters.wait)
        if signals is None or waits is None:
            return None
        count = self.counters.counters
        earlier, later = self.earlier.number, self.later.number
        return FamilyEdge(earlier, later, signals, waits, count, self.crosses_ranks)

    def followed(self) -> npt.NDArray[np.bool_] | None:
        """For each task of the earlier family whether somebody waits for its counter; None for
        too many tasks.
        """
        counters = self.counters
        if counters.followed:
            return np.ones(1, bool)
        if max(self.earlier.size, self.later.size) > MAX_TASKS:
            return None
        waited = np.zeros(counters.counters, bool)
        waited[_counter_of_each(self.later, counters.wait)] = True
        return waited[_counter_of_each(self.earlier, counters.signal)]

    @property
    def link(self) -> FamilyLink:
        """The same for families as a whole."""
        followed = self.followed()
        return FamilyLink(
            self.earlier.number,
            self.later.number,
            self.counters.counters == 1,
            followed is not None and bool(followed.all()),
        )

    def tensor(self, name: str, ranks: int) -> event.TensorOp:
        """Its event tensor."""
        counters = self.counters
        return event.TensorOp(
            name,
            counters.counters,
            _of_all(counters.arrivals, ranks) if self.crosses_ranks else counters.arrivals,
            _handoff(self.crosses_ranks),
            coarsened=(counters.ordered, counters.needed)
            if counters.ordered > counters.needed
            else None,
        )


def _of_all(arrivals: Arrivals, ranks: int) -> Arrivals:
    if isinstance(arrivals, int):
        return ranks * arrivals
    return tuple(ranks * each for each in arrivals)


def _handoff(crosses_ranks: bool) -> event.Handoff:
    return event.Handoff.PEER if crosses_ranks else event.Handoff.COUNTER


def _counter_of_each(family: Family, map: AffineMap) -> Ints:
    return evaluate(map, family.coordinates)[:, 0]


def _groups(family: Family, map: AffineMap) -> Ints | None:
    """The counter of each task; of one that stands for all tasks of a big family."""
    if family.size <= MAX_TASKS:
        return _counter_of_each(family, map)
    expression = map.results[0]
    if isinstance(expression, AffineConstantExpr):
        return np.full(1, expression.value, np.int64)
    return None


def _needed(families: Sequence[Family], flags: Sequence[FlagEdge]) -> list[_Dependence]:
    """The dependences of a step without those that others imply."""
    dependences = [
        _Dependence.of(ordering)
        for each in orderings_of(families)
        if (ordering := _without_flags(each)) is not None
    ]
    sizes = [f.size if f.size <= MAX_TASKS else 1 for f in families]
    known = [
        edge
        for flag in flags
        if max(flag.earlier.size, flag.later.size) <= MAX_TASKS and not flag.is_scattered
        for edge in family_edges(flag)
    ]
    if known:
        # A flag says that a task has read all it reads, not that others see what it has written
        # elsewhere: first go those that only keep a write behind a read, then what the rest of the
        # counters imply.
        dependences = _without_implied(dependences, sizes, known)
        dependences = _without_protected(dependences, families, flags)
    return _without_implied(dependences, sizes, ())


def _without_implied(
    dependences: Sequence[_Dependence], sizes: Sequence[int], known: Sequence[FamilyEdge]
) -> list[_Dependence]:
    """The dependences that others do not imply; with edges known besides, of those only that keep
    a write behind a read some are left out.
    """
    edges = [(d, edge) for d in dependences if (edge := d.edge) is not None]
    implied = redundant_edges(sizes, [*(edge for _, edge in edges), *known])
    dropped = {
        id(d)
        for (d, _), is_implied in zip(edges, implied, strict=False)
        if is_implied and (d.protects_only or not known)
    }
    return [d for d in dependences if id(d) not in dropped]


def _without_protected(
    dependences: Sequence[_Dependence], families: Sequence[Family], flags: Sequence[FlagEdge]
) -> list[_Dependence]:
    """The dependences but for those that only keep writes behind reads of a family that is over by
    then, because others have seen all that it flags.
    """
    links = [each.link for each in dependences if not each.protects_only]
    whole = WholeFamilies(families, links, flags)
    # Which families are over is known of the own rank.
    protected = {d for d in dependences if d.protects_only and not d.crosses_ranks}
    before = {d.later: whole.before(d.later.number) for d in protected}
    return [d for d in dependences if d not in protected or d.earlier.number not in before[d.later]]


def _without_flags(ordering: Ordering) -> Ordering | None:
    """What is left of an ordering without the reads that wait for flags; None for nothing."""
    rest = tuple(meeting for meeting in ordering.meetings if not _waits_by_flag(meeting))
    return Ordering(ordering.earlier, ordering.later, rest) if rest else None


def _waits_by_flag(meeting: Meeting) -> bool:
    is_flagged = meeting.accesses.buffer.flagged is not None
    return is_flagged and meeting.hazard is Hazard.READ_AFTER_WRITE


def _written_over(families: Sequence[Family]) -> set[Family]:
    """The families that write activations without flags which other families of the step after
    touch before anybody has written them again.

    What they write has to be seen at the end of the step, which flags do not say.
    """
    grouped: dict[task.BufferOp, list[tuple[Family, Access]]] = {}
    for family in families:
        for access in family.accesses:
            buffer = access.buffer
            if buffer.kind.data is task.BufferKind.SCRATCH and buffer.flagged is None:
                grouped.setdefault(buffer, []).append((family, access))
    result: set[Family] = set()
    for buffer, given in grouped.items():
        for i, j in BufferAccesses(buffer, given).pairs(2):
            if given[i][1].is_write and given[i][0] is not given[j][0]:
                result.add(given[i][0])
    return result


def _all_followed(
    family: Family, dependences: Sequence[_Dependence], flags: Sequence[FlagEdge]
) -> bool:
    """Whether somebody waits for every task of a family, or sees all of a box that it flags."""
    followed = np.zeros(family.size if family.size <= MAX_TASKS else 1, bool)
    for dependence in dependences:
        if dependence.earlier is family and (these := dependence.followed()) is not None:
            followed = followed | these
    for flag in flags:
        if flag.earlier is family and family.size <= MAX_TASKS:
            followed[flag.groups.source[flag.groups.whole]] = True
    if not followed.all() and family.size <= MAX_TASKS:
        followed |= seen_in_parts(family, flags)
    return bool(followed.all())


@dataclass(frozen=True)
class LowerDependenciesPass(ModulePass):
    """Order conflicting tasks by events, within a step and from step to step.

    Two families of which one writes what the other touches get an event tensor, with a counter for
    each group of tasks that conflict only among themselves, or for as few such groups together as
    affine maps can tell apart. A tensor that orders more pairs of tasks than conflict says so.
    Families that nobody in the step has to precede wait for the end of the step before, which all
    families signal of which some task precedes nobody.

    What one rank writes and all read is ordered between peers: by events that the tasks of all
    ranks signal. So is the end of a step, of several ranks: nobody writes over what another still
    reads.

    Who reads a flagged buffer waits for its elements and needs no event for that; such an edge
    keeps writes behind reads, but does not make other memory visible: so what a step writes last of
    memory without flags is followed by counters to its end. Families that wait only so
    wait for the end of the step before too: a step that must not run never begins.
    """

    name = "mpk-lower-dependencies"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        families = families_of(op)
        if not families:
            return
        waits: dict[Family, list[event.EdgeAttr]] = {family: [] for family in families}
        signals: dict[Family, list[event.EdgeAttr]] = {family: [] for family in families}
        tensors: list[event.TensorOp] = []
        flags, ranks = flag_edges_of(families), ranks_of(op)
        needed = _needed(families, flags)
        for number, dependence in enumerate(needed):
            name = f"e{number}"
            tensors.append(dependence.tensor(name, ranks))
            signal, wait = dependence.counters.signal, dependence.counters.wait
            signals[dependence.earlier].append(event.EdgeAttr(name, signal))
            waits[dependence.later].append(event.EdgeAttr(name, wait))

        sources = [family for family in families if not waits[family]]
        written = _written_over(families)
        sinks: list[Family] = []
        for family in families:
            later = [each for each in needed if each.earlier is family]
            if family in written:
                written |= {each.later for each in later}
            if not _all_followed(family, later, () if family in written else flags):
                sinks.append(family)
        last = ranks * sum(family.size for family in sinks)
        tensors.append(event.TensorOp(END, 1, last, _handoff(ranks > 1)))
        for family in sources:
            waits[family].append(event.EdgeAttr(END, constant_map(len(family.op.grid)), 1))
        for family in sinks:
            signals[family].append(event.EdgeAttr(END, constant_map(len(family.op.grid))))

        first = families[0].op
        assert first.parent is not None
        first.parent.insert_ops_before(tensors, first)
        for family in families:
            family.op.waits = ArrayAttr(waits[family])
            family.op.signals = ArrayAttr(signals[family])
