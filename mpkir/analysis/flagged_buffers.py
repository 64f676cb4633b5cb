"""What flagged buffers rely on: every element written once a step, before anybody reads it in
program order, and workers that do not begin a step before the one before has ended.

A reader takes an element as this step's when it carries this step's number. So nobody else may
write that number there, and nobody the next before the reader has looked. A task of a step that is
not to run would look for ever: a step must be known to run before a worker begins it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpkir.analysis.dependence import Touch, Touches, overlap_of
from mpkir.analysis.families import Family
from mpkir.analysis.happens_before import HappensBefore
from mpkir.analysis.schedule import Schedule, schedule_error
from mpkir.analysis.slices import take_all
from mpkir.dialects import task, tensor
from mpkir.dialects.event import Handoff
from mpkir.dialects.task import BufferOp

_SIMPLE = (
    tensor.ElementwiseOp,
    tensor.ReshapeOp,
    tensor.TransposeOp,
    tensor.BroadcastOp,
    tensor.LinearOp,
    task.YieldOp,
)


def looks_at_all(family: Family) -> bool:
    """Whether the tasks of a family look at every element of their boxes in every step, so that
    what they find is of this step or of the one before. Who joins the parts of a split attention
    leaves out the empty ones."""
    return all(
        isinstance(op, _SIMPLE) or (isinstance(op, tensor.SliceOp) and take_all(op.source))
        for op in family.op.body.block.ops
    )


def check_flagged(schedule: Schedule, touches: Touches, done: HappensBefore) -> None:
    """Raise MpkirError where a tag would not say that the right task has written, or a worker might
    wait for one that never comes. Nothing for a module without flagged buffers.
    """
    flagged = {buffer: each for buffer, each in touches.items() if buffer.flagged is not None}
    for buffer, each in flagged.items():
        _check_tasks(schedule, buffer, each)
        _check_written_once(schedule, buffer, each)
        _check_program_order(schedule, buffer, each)
        _check_brief(schedule, buffer, each)
    if flagged:
        _check_first_tasks(schedule, done)


def _check_tasks(schedule: Schedule, buffer: BufferOp, touches: Sequence[Touch]) -> None:
    name = buffer.sym.data
    for touch in touches:
        if touch.family.op.dynamic is not None:
            raise schedule_error(
                f"{schedule.describe(schedule.tasks_of(touch.family)[0])} is given to any worker, "
                f"and looks for or sets tags of {name!r}: who would have to run before it may "
                "stand behind it",
                "leave out mpk-choose-handoffs",
            )


def _check_written_once(schedule: Schedule, buffer: BufferOp, touches: Sequence[Touch]) -> None:
    owner = np.full(touches[0].shape, -1)
    for touch in touches:
        if not touch.access.is_write:
            continue
        begin, slices = schedule.tasks_of(touch.family).start, list(touch.slices())
        tasks: list[int] = touch.boxes.tasks.tolist()
        for number, box in zip(tasks, touch.box.tolist(), strict=True):
            mine = owner[slices[box]]
            if (mine >= 0).any():
                other = int(mine.max())
                raise schedule_error(
                    f"{schedule.describe(other)} and {schedule.describe(begin + number)} write the "
                    f"same elements of {buffer.sym.data!r}, which is flagged: the tag of the one "
                    "may be taken for the other's",
                    "leave the buffer unflagged",
                )
            owner[slices[box]] = begin + number


def _check_program_order(schedule: Schedule, buffer: BufferOp, touches: Sequence[Touch]) -> None:
    for write in touches:
        for read in touches:
            if not write.access.is_write or read.access.is_write:
                continue
            if read.family.number <= write.family.number and overlap_of(write, read) is not None:
                reader = schedule.tasks_of(read.family)[0]
                raise schedule_error(
                    f"{schedule.describe(reader)} reads {buffer.sym.data!r}, which "
                    f"{schedule.describe(schedule.tasks_of(write.family)[0])} writes only later in "
                    "the step: it would wait for this step's tag",
                    "leave the buffer unflagged",
                )


def _check_brief(schedule: Schedule, buffer: BufferOp, touches: Sequence[Touch]) -> None:
    for touch in touches:
        if buffer.brief is None or touch.access.is_write or looks_at_all(touch.family):
            continue
        raise schedule_error(
            f"{schedule.describe(schedule.tasks_of(touch.family)[0])} may leave out elements of "
            f"{buffer.sym.data!r}, which is brief: it would take what was written two steps ago "
            "for this step's",
            "leave the buffer with whole tags",
        )


def _check_first_tasks(schedule: Schedule, done: HappensBefore) -> None:
    """Each worker's first task of a step waits, by a counter, for something that comes after the
    end of the step before.
    """
    counted = np.array([each is not Handoff.FLAG for each in schedule.handoffs], bool)
    needed = done.needed(np.arange(schedule.tasks))
    uses = schedule.all_waits
    for worker, tasks in enumerate(schedule.lists):
        if not len(tasks):
            continue
        first = int(tasks[0])
        rows = (uses.task == first) & counted[uses.counter]
        gates = zip(uses.counter[rows], uses.lag[rows], strict=True)
        if not any((done.fired[1 - lag, counter] >= needed).all() for counter, lag in gates):
            raise schedule_error(
                f"worker {worker} may begin a step that must not run: "
                f"{schedule.describe(first)}, its first task, waits for no event that comes after "
                "the end of the step before, and would look for tags that never come",
                f"let {schedule.label(first)} wait, with lag 1, for the end of the step",
            )
