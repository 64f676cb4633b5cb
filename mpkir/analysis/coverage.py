"""Reads of what nobody wrote, and writes to what nobody may write."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import numpy.typing as npt

from mpkir.analysis.dependence import Touch, Touches, covered
from mpkir.analysis.families import Access, Family, evaluate
from mpkir.analysis.schedule import Schedule, schedule_error
from mpkir.dialects.task import BufferKind, BufferOp

_WRITTEN_BY_HOST = frozenset({BufferKind.WEIGHT, BufferKind.STATE, BufferKind.INPUT})
_CONSTANT = frozenset({BufferKind.WEIGHT, BufferKind.INPUT})


def check_coverage(schedule: Schedule, touches: Touches) -> None:
    """Raise MpkirError where a task touches what it may not, or reads an activation that no task of
    the step has written."""
    for family in schedule.families:
        for access in family.accesses:
            _check_access(schedule, family, access, touches)
    for buffer, each in touches.items():
        if buffer.kind.data not in _WRITTEN_BY_HOST:
            _check_written(schedule, buffer, each)


def _check_access(schedule: Schedule, family: Family, access: Access, touches: Touches) -> None:
    buffer = access.buffer
    name, kind = buffer.sym.data, buffer.kind.data
    first = schedule.tasks_of(family)[0]
    if access.is_write and kind in _CONSTANT:
        raise schedule_error(
            f"{schedule.describe(first)} writes {name!r}, but a buffer of the kind {kind.value!r} "
            "keeps what the host wrote",
            "write a buffer of the kind 'scratch' or 'state'",
        )
    if not access.is_write and kind not in _WRITTEN_BY_HOST and buffer not in touches:
        raise schedule_error(
            f"{schedule.describe(first)} reads {name!r}, which nobody writes",
            f"a write of {name!r} before {schedule.label(first)} is missing",
        )
    low = evaluate(access.box.offsets.data, family.coordinates)
    if (low < 0).any():
        at = int((low < 0).any(axis=1).argmax())
        task = schedule.tasks_of(family)[at]
        raise schedule_error(
            f"{schedule.describe(task)} touches {name!r} from {tuple(low[at].tolist())} on, before "
            "its first element"
        )


def _check_written(schedule: Schedule, buffer: BufferOp, touches: Sequence[Touch]) -> None:
    """Walk the accesses in order, noting what is written; all of a family's reads come first."""
    shape = touches[0].shape
    written: npt.NDArray[np.bool_] = np.zeros(shape, bool)
    full = False
    for touch in sorted(touches, key=lambda t: (t.family.number, t.access.is_write)):
        if full:
            return
        if touch.access.is_write:
            full = covered(touch) == prod(shape)
            for box in touch.slices():
                written[box] = True
            continue
        for number, box in enumerate(touch.slices()):
            if not written[box].all():
                missing = np.argwhere(~written[box])[0] + touch.low[number]
                _refuse(schedule, buffer, touches, touch, number, missing.tolist())


def _refuse(
    schedule: Schedule,
    buffer: BufferOp,
    touches: Sequence[Touch],
    touch: Touch,
    number: int,
    element: Sequence[int],
) -> None:
    """Raise: the tasks with this distinct box read an element before anyone has written it."""
    reader = schedule.tasks_of(touch.family)[int(touch.boxes.tasks[touch.box == number].min())]
    writers = [
        schedule.tasks_of(other.family)[int(other.boxes.tasks[row])]
        for other in touches
        if other.access.is_write
        for row in np.flatnonzero(
            ((other.boxes.low <= element) & (element < other.boxes.high)).all(axis=1)
        )[:1]
    ]
    if writers:
        who = f"{schedule.describe(min(writers))} writes only later in the step"
    else:
        near = next(t for t in touches if t.access.is_write)
        who = (
            "no task writes in the step; others of its elements are written by "
            + schedule.describe(schedule.tasks_of(near.family)[0])
        )
    name, place = buffer.sym.data, int(np.ravel_multi_index(element, touch.shape))
    raise schedule_error(
        f"{schedule.describe(reader)} reads element {place} of {name!r}, which {who}",
        f"a write of it before {schedule.label(reader)} is missing",
    )
