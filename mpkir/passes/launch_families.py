"""launch-families: every family becomes a kernel of its own, one after another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import DenseArrayBase, IntegerAttr, ModuleOp, i64
from xdsl.passes import ModulePass

from mpkir.analysis.coverage import check_coverage
from mpkir.analysis.dependence import Overlap, Touches, overlap_of, touches_of
from mpkir.analysis.families import WORKERS, families_of
from mpkir.analysis.schedule import Schedule, schedule_error, schedule_of
from mpkir.analysis.stages import check_stages
from mpkir.errors import MpkirError


@dataclass(frozen=True)
class LaunchFamiliesPass(ModulePass):
    """Deal each family's tasks over `workers`, in program order, and prove that this is enough.

    Task i of a family goes to worker i mod `workers`, in a list behind the tasks of all families
    before. Each family is to be run by a kernel that starts its work when the one before has ended,
    so nothing needs an event; what remains to be shown is that tasks of one family do not touch
    what another of them writes, that what a task reads has been written, and that every stage of
    the ring is used once. A violation is an error that names the tasks and their operators.
    """

    name = "mpk-launch-families"

    workers: int

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if self.workers < 1:
            raise MpkirError(f"kernels of {self.workers} workers", where=self.name)
        families = families_of(op)
        begun = np.zeros(self.workers, np.int64)
        for family in families:
            if family.op.waits or family.op.signals or family.op.dynamic is not None:
                raise MpkirError(
                    "its tasks wait for events, signal some, or are given out at run time",
                    where=f"@{family.name}",
                    hint="leave out the passes that make events: kernels run in program order",
                )
            number = np.arange(family.size)
            worker = number % self.workers
            slot = begun[worker] + number // self.workers
            begun += np.bincount(worker, minlength=self.workers)
            family.op.workers = DenseArrayBase.from_list(i64, worker.tolist())
            family.op.slots = DenseArrayBase.from_list(i64, slot.tolist())
        op.attributes[WORKERS] = IntegerAttr(self.workers, i64)
        if not families:
            return
        schedule = schedule_of(op)
        if schedule.ranks > 1:
            raise MpkirError(
                f"the module is for {schedule.ranks} ranks, which nothing lets wait for each other",
                where=self.name,
                hint="compile for a persistent kernel",
            )
        touches = touches_of(families)
        check_stages(op, schedule)
        check_coverage(schedule, touches)
        _check_apart(schedule, touches)


def _check_apart(schedule: Schedule, touches: Touches) -> None:
    """Tasks of one family run at the same time, so they may not conflict."""
    for each in touches.values():
        for later in each:
            for earlier in each:
                if earlier.family is not later.family:
                    continue
                overlap = overlap_of(earlier, later)
                if overlap is not None and (pair := _two_tasks(overlap)) is not None:
                    begin = int(schedule.offsets[later.family.number])
                    first, second = (schedule.describe(begin + task) for task in pair)
                    raise schedule_error(
                        f"{first} and {second} touch the same elements of "
                        f"{later.access.buffer.sym.data!r}, which one of them writes, and run at "
                        "the same time",
                        "split the family, or compile for a persistent kernel",
                    )


def _two_tasks(overlap: Overlap) -> tuple[int, int] | None:
    """Different tasks of a family that touch boxes that overlap: the last that touches one and the
    first that touches the other. Asked for both orders of two accesses, it finds some if any do.
    """
    earlier, later = overlap.earlier, overlap.later
    last = np.zeros(len(earlier.low), np.int64)
    np.maximum.at(last, earlier.box, earlier.boxes.tasks)
    first = np.full(len(later.low), np.iinfo(np.int64).max)
    np.minimum.at(first, later.box, later.boxes.tasks)
    a, b = last[overlap.earlier_box], first[overlap.later_box]
    apart = np.flatnonzero(a != b)
    return (int(a[apart[0]]), int(b[apart[0]])) if len(apart) else None
