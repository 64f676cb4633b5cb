"""verify-schedule: proof that a schedule means what its grids mean one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from xdsl.context import Context
from xdsl.dialects.builtin import DenseArrayBase, ModuleOp
from xdsl.passes import ModulePass

from mpkir.analysis.coverage import check_coverage
from mpkir.analysis.dependence import (
    Hazard,
    Overlap,
    Touch,
    Touches,
    conflicts_of,
    overlap_of,
    touches_of,
)
from mpkir.analysis.families import Ints
from mpkir.analysis.flag_edges import is_flagged
from mpkir.analysis.flagged_buffers import check_flagged
from mpkir.analysis.handoffs import Flags, check_reach
from mpkir.analysis.happens_before import HappensBefore, happens_before
from mpkir.analysis.schedule import Schedule, schedule_error, schedule_of
from mpkir.analysis.stages import check_stages
from mpkir.dialects.event import Handoff
from mpkir.errors import MpkirError

_VERBS = {
    Hazard.READ_AFTER_WRITE: ("writes", "reads"),
    Hazard.WRITE_AFTER_READ: ("reads", "writes"),
    Hazard.WRITE_AFTER_WRITE: ("writes", "writes"),
}


@dataclass(frozen=True)
class _Proof:
    """The checks; each raises MpkirError at the first violation."""

    schedule: Schedule
    done: HappensBefore
    """What is done before what."""
    seen: HappensBefore
    """What is seen by whom; the same if no hand-off is by flag."""
    flags: Flags | None

    def race(self, earlier: int, later: int, overlap: Overlap, steps: str) -> MpkirError:
        """What to say about two conflicting tasks that nothing orders."""
        first, second = _VERBS[overlap.hazard]
        buffer = overlap.later.access.buffer.sym.data
        a, b = self.schedule.label(earlier), self.schedule.label(later)
        away, how = "", ""
        if overlap.crosses_ranks:
            away, how = " of another rank", ", with the hand-off 'peer',"
        return schedule_error(
            f"race {steps}: {self.schedule.describe(earlier)}{away} {first} {buffer!r} and "
            f"{self.schedule.describe(later)} {second} the same elements, but nothing orders them",
            f"an edge from {a} to {b}{how} is missing",
        )

    def steps_stay_apart(self) -> None:
        """No signal of the next step can be taken for one of this step."""
        flag = self.schedule.having(Handoff.FLAG)
        for family, edges in zip(self.schedule.families, self.schedule.signals, strict=True):
            tasks = self.schedule.tasks_of(family)
            clocks = self.done.clocks[1, tasks.start : tasks.stop]
            for edge in edges:
                early = (clocks < self.done.fired[0, edge.counter]).any(axis=1)
                early = np.flatnonzero(early & ~flag[edge.counter])
                if len(early):
                    raise self.early_signal(tasks[int(early[0])], int(edge.counter[early[0]]))

    def early_signal(self, task: int, counter: int) -> MpkirError:
        """What to say about a task that may signal in the next step before others have in this."""
        sources = self.schedule.all_signals.of(counter)
        crosses = self.schedule.handoffs[counter] is Handoff.PEER
        open = ~self.done.ordered(sources, np.full(len(sources), task), 1, crosses)
        source, away = int(sources[open][0]), " of another rank" if crosses else ""
        return schedule_error(
            f"{self.schedule.describe(task)} may signal {self.schedule.counters[counter]} in the "
            f"next step before {self.schedule.describe(source)}{away} has in this one",
            f"an edge from {self.schedule.label(source)} to {self.schedule.label(task)} of the "
            "next step is missing: let it wait, with lag 1, for the end of the step",
        )

    def stops_in_time(self) -> None:
        """A task that may end the loop runs before any task of the next step."""
        for family in self.schedule.families:
            stops = (op.properties.get("stop") for op in family.op.body.block.ops)
            if not any(isinstance(s, DenseArrayBase) and s.data.data for s in stops):
                continue
            tasks = np.array(self.schedule.tasks_of(family))
            early = np.flatnonzero(~self.seen.follows(tasks))
            if len(early):
                task = int(early[0])
                open = ~self.seen.ordered(tasks, np.full(len(tasks), task), 1)
                stop = int(tasks[open][0])
                raise schedule_error(
                    f"{self.schedule.describe(task)} may run in the next step before "
                    f"{self.schedule.describe(stop)} has stopped the loop",
                    f"an edge from {self.schedule.label(stop)} to {self.schedule.label(task)} of "
                    "the next step is missing: let it wait, with lag 1, for the end of the step",
                )

    def within_step(self, touches: Touches) -> None:
        """Conflicting tasks of different families happen in the order of their grids."""
        for conflict in conflicts_of(touches):
            for overlap in conflict.overlaps:
                self.check(overlap, 0)

    def within_families(self, touches: Sequence[Touch]) -> None:
        """Tasks of one family conflict with none of their own kind."""
        for later in touches:
            for earlier in touches:
                if earlier.family is not later.family:
                    continue
                overlap = overlap_of(earlier, later)
                if overlap is None:
                    continue
                a, b = _pairs(overlap)
                # The same task of another rank is another task.
                apart = np.flatnonzero((a != b) | overlap.crosses_ranks)
                if len(apart):
                    begin = int(self.schedule.offsets[later.family.number])
                    i, j = int(a[apart[0]]) + begin, int(b[apart[0]]) + begin
                    raise self.race(i, j, overlap, "within a family")

    def across_steps(self, touches: Sequence[Touch], follows: bool) -> None:
        """Conflicting tasks of consecutive steps happen step after step. `follows`: each task of a
        step begins when all of the step before are done.
        """
        is_exchange = touches[0].access.buffer.exchange is not None
        if follows and is_flagged(touches[0].access) and not is_exchange:
            return
        for earlier in touches:
            for later in touches:
                if follows and not earlier.access.is_write and not is_exchange:
                    continue
                overlap = overlap_of(earlier, later)
                if overlap is not None:
                    self.check(overlap, 1)

    def check(self, overlap: Overlap, step: int) -> None:
        """All pairs of an overlap, the earlier in step 0 and the later in `step`."""
        found = self.unordered(overlap, step)
        if found is not None:
            steps = "within a step" if step == 0 else "from step to step"
            raise self.race(*found, overlap, steps)

    def unordered(self, overlap: Overlap, step: int) -> tuple[int, int] | None:
        """Two tasks of an overlap that do not happen in its order."""
        flagged = is_flagged(overlap.later.access)
        if flagged and overlap.hazard is Hazard.READ_AFTER_WRITE:
            # The reader waits for the very element; `check_flagged` has shown whose it is.
            return None
        needs_done = flagged or overlap.hazard is Hazard.WRITE_AFTER_READ
        order = self.done if needs_done else self.seen
        for a, b in self.groups(overlap):
            # What all of `b` have seen against the last of `a` on each worker.
            needed = order.needed(a, overlap.crosses_ranks)
            if (order.clocks[step, b].min(axis=0) >= needed).all():
                continue
            for task in b:
                late = np.flatnonzero(self.open(overlap, a, np.full(len(a), task), step))
                if len(late):
                    return int(a[late[0]]), int(task)
        a, b = self.pairs(overlap)
        late = np.flatnonzero(self.open(overlap, a, b, step))
        return (int(a[late[0]]), int(b[late[0]])) if len(late) else None

    def open(self, overlap: Overlap, a: Ints, b: Ints, step: int) -> npt.NDArray[np.bool_]:
        """Which pairs of conflicting tasks nothing orders."""
        across = overlap.crosses_ranks
        if overlap.hazard is Hazard.WRITE_AFTER_READ or is_flagged(overlap.later.access):
            return ~self.done.ordered(a, b, step, across)
        result = ~self.seen.ordered(a, b, step, across)
        if across:
            return result
        if self.flags is not None and overlap.hazard is Hazard.READ_AFTER_WRITE:
            result &= ~self.flags.carry(a, b, step)
        return result

    def groups(self, overlap: Overlap) -> Iterator[tuple[Ints, Ints]]:
        """Sets of tasks of which each earlier one conflicts with each later one, if few sets do."""
        for box in _few(overlap.later_box):
            chosen = overlap.earlier_box[overlap.later_box == box]
            yield self.tasks(overlap.earlier, chosen), self.tasks(overlap.later, np.array([box]))
        if _few(overlap.later_box):
            return
        for box in _few(overlap.earlier_box):
            chosen = overlap.later_box[overlap.earlier_box == box]
            yield self.tasks(overlap.earlier, np.array([box])), self.tasks(overlap.later, chosen)

    def pairs(self, overlap: Overlap) -> tuple[Ints, Ints]:
        """All pairs of conflicting tasks, if `groups` gives none."""
        if _few(overlap.later_box) or _few(overlap.earlier_box):
            return _NONE, _NONE
        row_a, row_b = _members(overlap.earlier, overlap.earlier_box)
        a, again = overlap.earlier.boxes.tasks[row_a], overlap.later_box[row_b]
        row_c, row_d = _members(overlap.later, again)
        begin_a, begin_b = (
            self.schedule.offsets[touch.family.number] for touch in (overlap.earlier, overlap.later)
        )
        return a[row_d] + begin_a, overlap.later.boxes.tasks[row_c] + begin_b

    def tasks(self, touch: Touch, boxes: Ints) -> Ints:
        """The tasks that touch one of these distinct boxes."""
        chosen = np.zeros(len(touch.low), bool)
        chosen[boxes] = True
        found = np.unique(touch.boxes.tasks[chosen[touch.box]])
        return found + self.schedule.offsets[touch.family.number]


_NONE = np.zeros(0, np.int64)

_FEW_BOXES = 64


def _few(boxes: Ints) -> list[int]:
    """The distinct numbers if there are few of them, else none."""
    found = np.unique(boxes)
    return found.tolist() if len(found) <= _FEW_BOXES else []


def _members(touch: Touch, boxes: Ints) -> tuple[Ints, Ints]:
    """All rows of the access that are one of `boxes`: the row, and the place in `boxes`."""
    order = np.argsort(touch.box, kind="stable")
    counts = np.bincount(touch.box, minlength=len(touch.low))
    first = np.cumsum(counts) - counts
    lengths = counts[boxes]
    place = np.repeat(np.arange(len(boxes)), lengths)
    within: Ints = np.arange(lengths.sum(), dtype=np.int64) - np.repeat(
        np.cumsum(lengths) - lengths, lengths
    )
    return order[first[boxes][place] + within], place


def _pairs(overlap: Overlap) -> tuple[Ints, Ints]:
    """A pair of tasks for each pair of boxes, the last that touches one, the first the other.

    Asked for both orders of two accesses, these differ somewhere if any two tasks conflict.
    """
    earlier, later = overlap.earlier, overlap.later
    last = np.zeros(len(earlier.low), np.int64)
    np.maximum.at(last, earlier.box, earlier.boxes.tasks)
    first = np.full(len(later.low), np.iinfo(np.int64).max)
    np.minimum.at(first, later.box, later.boxes.tasks)
    return last[overlap.earlier_box], first[overlap.later_box]


@dataclass(frozen=True)
class VerifySchedulePass(ModulePass):
    """Prove that the module runs without race or deadlock, whatever the timing, over all its steps.

    Conflicting tasks are ordered as their grids are, within a step and from step to step, by means
    that reach as far as they have to; no task waits for ever; every counter gets the signals it
    expects, each in its step; what a task reads has been written; every stage of the ring is used
    once. What ranks write into each other's memory is ordered between all of them, by hand-offs
    that cross ranks. Elements of flagged buffers are written once a step, and each worker's first
    task waits for the end of the step before. A violation is an error that names the tasks, their
    operators, where they come from in the model, and the missing edge.
    """

    name = "mpk-verify-schedule"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        schedule = schedule_of(op)
        if not schedule.families:
            return
        touches = touches_of(schedule.families)
        check_stages(op, schedule)
        check_coverage(schedule, touches)
        done = seen = happens_before(schedule)
        check_reach(schedule)
        check_flagged(schedule, touches, done)
        flags = None
        if schedule.flags or schedule.having(Handoff.FLAG).any():
            seen = happens_before(schedule, through_flags=False)
        if schedule.having(Handoff.FLAG).any():
            flags = Flags(schedule, done)
            flags.check(touches)
        proof = _Proof(schedule, done, seen, flags)
        proof.steps_stay_apart()
        proof.stops_in_time()
        proof.within_step(touches)
        every = np.arange(schedule.tasks)
        all_seen = bool(seen.follows(every).all())
        all_done = all_seen or bool(done.follows(every).all())
        everywhere = bool(seen.follows(every, everywhere=True).all())
        for buffer, each in touches.items():
            proof.within_families(each)
            if not (everywhere if buffer.exchange is not None else all_seen):
                proof.across_steps(each, all_done)
