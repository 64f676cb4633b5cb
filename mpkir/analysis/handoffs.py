"""What each way of handing over relies on: the same worker, the same rank, tags that tell writes
apart.

`local` needs all who signal and wait on one worker, in its order. `counter` and `flag` reach one
rank, `peer` all. A flag is the data itself: every element of a tagged buffer carries the number
of the step that wrote it, and a waiter looks at the elements that it reads until all carry the
step's number. So a waiter must read, of each task that it waits for, something that no other write
of that step can be taken for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mpkir.analysis.dependence import Touch, Touches
from mpkir.analysis.families import Family, Ints
from mpkir.analysis.happens_before import HappensBefore
from mpkir.analysis.schedule import Schedule, schedule_error
from mpkir.dialects.event import Handoff
from mpkir.dialects.task import BufferKind


def check_reach(schedule: Schedule) -> None:
    """Raise MpkirError where a hand-off reaches further than it can.

    That tasks of different ranks meet between peers only is a matter of their order: nothing else
    says anything of another rank (`happens_before`).
    """
    dynamic = [family for family in schedule.families if family.op.dynamic is not None]
    if schedule.ranks > 1 and dynamic:
        first = schedule.describe(schedule.tasks_of(dynamic[0])[0])
        raise schedule_error(
            f"{first} is given out when its event fires, and {schedule.ranks} ranks run the "
            "module: who fires it may be on another",
            "give it a worker",
        )
    _check_local(schedule)


def _apart(
    schedule: Schedule, chosen: npt.NDArray[np.bool_], place: Ints
) -> tuple[int, int, int] | None:
    """A counter of those chosen, a task that signals it and one elsewhere that waits for it."""
    signals, waits = schedule.all_signals, schedule.all_waits
    least = np.full(len(schedule.counters), np.iinfo(np.int64).max)
    most = np.full(len(schedule.counters), -1)
    np.minimum.at(least, signals.counter, place[signals.task])
    np.maximum.at(most, signals.counter, place[signals.task])
    here = place[waits.task]
    wrong = chosen[waits.counter] & ((least[waits.counter] != here) | (most[waits.counter] != here))
    if not wrong.any():
        return None
    at = int(wrong.argmax())
    counter = int(waits.counter[at])
    sources = schedule.all_signals.of(counter)
    return counter, int(sources[place[sources] != here[at]][0]), int(waits.task[at])


def _check_local(schedule: Schedule) -> None:
    """Who hands over locally runs on one worker, signallers before waiters."""
    local = schedule.having(Handoff.LOCAL)
    if not local.any():
        return
    dynamic = np.flatnonzero(schedule.worker < 0)
    for uses in (schedule.all_signals, schedule.all_waits):
        wrong = local[uses.counter] & np.isin(uses.task, dynamic)
        if wrong.any():
            at = int(wrong.argmax())
            raise schedule_error(
                f"{schedule.describe(int(uses.task[at]))} is given to any worker, and hands over "
                f"locally through {schedule.counters[uses.counter[at]]}",
                "make the hand-off 'counter'",
            )
    found = _apart(schedule, local, schedule.worker)
    if found is not None:
        counter, source, waiter = found
        raise schedule_error(
            f"{schedule.describe(source)} on worker {schedule.worker[source]} and "
            f"{schedule.describe(waiter)} on worker {schedule.worker[waiter]} meet at "
            f"{schedule.counters[counter]}, whose hand-off is 'local'",
            f"the edge from {schedule.label(source)} to {schedule.label(waiter)} needs the "
            "hand-off 'counter'",
        )
    last = np.full(len(schedule.counters), -1)
    signals, waits = schedule.all_signals, schedule.all_waits
    np.maximum.at(last, signals.counter, schedule.slot[signals.task])
    wrong = local[waits.counter] & (waits.lag == 0)
    wrong &= last[waits.counter] >= schedule.slot[waits.task]
    if wrong.any():
        at = int(wrong.argmax())
        counter, waiter = int(waits.counter[at]), int(waits.task[at])
        sources = schedule.all_signals.of(counter)
        source = int(sources[schedule.slot[sources].argmax()])
        raise schedule_error(
            f"deadlock: {schedule.describe(waiter)} waits for ever for "
            f"{schedule.counters[counter]}, which waits for {schedule.describe(source)} behind it "
            f"on worker {schedule.worker[waiter]}",
            f"the edge from {schedule.label(source)} to {schedule.label(waiter)} runs against "
            "the worker's list",
        )


@dataclass(frozen=True, eq=False)
class Flags:
    """The flags of a schedule: which pairs the data itself orders."""

    schedule: Schedule
    order: HappensBefore
    """What is done before what."""

    def carry(self, earlier: Ints, later: Ints, step: int) -> npt.NDArray[np.bool_]:
        """For pairs of a writer in step 0 and a reader in `step`: whether the reader waits for the
        writer by flag."""
        result = np.zeros(len(earlier), bool)
        if not len(earlier):
            return result
        flag = self.schedule.having(Handoff.FLAG)
        source, target = (self.schedule.family_of(int(each[0])) for each in (earlier, later))
        for signal in self.schedule.signals[source.number]:
            for wait in self.schedule.waits[target.number]:
                if wait.lag != step:
                    continue
                counter = signal.counter[earlier - self.schedule.offsets[source.number]]
                same = counter == wait.counter[later - self.schedule.offsets[target.number]]
                result |= same & flag[counter]
        return result

    def check(self, touches: Touches) -> None:
        """Raise MpkirError where a tag does not say that the right task has written."""
        schedule = self.schedule
        flag = schedule.having(Handoff.FLAG)
        for family in schedule.families:
            for wait in schedule.waits[family.number]:
                if not flag[wait.counter].any():
                    continue
                if family.op.dynamic is not None:
                    raise schedule_error(
                        f"{schedule.describe(schedule.tasks_of(family)[0])} is given to a worker "
                        f"when {schedule.counters[wait.counter[0]]} fires, whose hand-off is "
                        "'flag': nobody sees a flag but who looks at it",
                        "make the hand-off 'counter'",
                    )
                seen: list[set[int]] = [set() for _ in range(family.size)]
                # What other ranks write has no owner here; flagged buffers are how they hand over.
                for buffer, each in touches.items():
                    if buffer.kind.data is BufferKind.SCRATCH and buffer.exchange is None:
                        self.look(family, wait.counter, wait.lag, each, seen)
                for index, counter in enumerate(wait.counter.tolist()):
                    sources = schedule.all_signals.of(counter).tolist()
                    unseen = [source for source in sources if source not in seen[index]]
                    if unseen:
                        reader = schedule.tasks_of(family)[index]
                        raise schedule_error(
                            f"{schedule.describe(reader)} waits by flag for "
                            f"{schedule.describe(unseen[0])}, of whose tagged elements it reads "
                            "none",
                            f"the edge from {schedule.label(unseen[0])} to "
                            f"{schedule.label(reader)} needs the hand-off 'counter'",
                        )

    def look(
        self,
        family: Family,
        counter: Ints,
        lag: int,
        touches: Sequence[Touch],
        seen: list[set[int]],
    ) -> None:
        """What the tasks of a family see of one buffer; `seen` gets whom each has waited for."""
        schedule = self.schedule
        sources = {
            int(task): int(c)
            for c, task in zip(schedule.all_signals.counter, schedule.all_signals.task, strict=True)
            if c in counter
        }
        writers = [touch for touch in touches if touch.access.is_write]
        carries = any(
            task in sources for touch in writers for task in schedule.tasks_of(touch.family)
        )
        if not carries:
            return
        owners = [self.owners(touch) for touch in writers]
        for touch in touches:
            if touch.family is not family or touch.access.is_write:
                continue
            slices = list(touch.slices())
            rows: list[int] = touch.boxes.tasks.tolist()
            for row, box in zip(rows, touch.box.tolist(), strict=True):
                reader = schedule.tasks_of(family)[row]
                found = {int(t) for each in owners for t in np.unique(each[slices[box]])} - {-1}
                mine = {task for task in found if sources.get(task) == counter[row]}
                self.no_other(reader, found - mine, lag, touch)
                count = np.sum([np.isin(each[slices[box]], list(mine)) for each in owners], axis=0)
                if np.any(count != 1):
                    raise schedule_error(
                        f"{schedule.describe(reader)} waits by flag for elements of "
                        f"{touch.access.buffer.sym.data!r}, some of which not exactly one of the "
                        f"tasks that signal {schedule.counters[counter[row]]} writes"
                        + (f", like {schedule.describe(min(found))}" if found else ""),
                        "make the hand-off 'counter'",
                    )
                seen[row] |= mine

    def no_other(self, reader: int, others: set[int], lag: int, touch: Touch) -> None:
        """No other task writes these elements, with the tag looked for, before the reader has
        looked."""
        for other in sorted(others):
            later = self.order.ordered(np.array([reader]), np.array([other]))[0]
            if lag or not later:
                raise schedule_error(
                    f"{self.schedule.describe(reader)} waits by flag for elements of "
                    f"{touch.access.buffer.sym.data!r} that {self.schedule.describe(other)} "
                    "writes too in the step: its tag may be taken for the one waited for",
                    f"an edge from {self.schedule.label(reader)} to {self.schedule.label(other)} "
                    "is missing, or the hand-off must be 'counter'",
                )

    def owners(self, touch: Touch) -> Ints:
        """For each element which task of the access's family writes it; -1 for none."""
        result = np.full(touch.shape, -1)
        slices = list(touch.slices())
        begin = self.schedule.tasks_of(touch.family).start
        for row, box in zip(touch.boxes.tasks.tolist(), touch.box.tolist(), strict=True):
            result[slices[box]] = row + begin
        return result
