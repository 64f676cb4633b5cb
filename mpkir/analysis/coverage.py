"""Reads of what nobody wrote: elements of activations that a step reads before it writes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np
import numpy.typing as npt

from mpkir.analysis.dependence import Touch, Touches, covered
from mpkir.analysis.families import Family
from mpkir.dialects.task import BufferKind, BufferOp

_WRITTEN_BY_HOST = frozenset({BufferKind.WEIGHT, BufferKind.STATE, BufferKind.INPUT})


def unwritten_reads(families: Sequence[Family], touches: Touches) -> Iterator[str]:
    """What is wrong, one sentence for each family that reads an element before anyone wrote it."""
    for family in families:
        for access in family.accesses:
            buffer = access.buffer
            if buffer.kind.data not in _WRITTEN_BY_HOST and buffer not in touches:
                yield f"@{family.name} reads {buffer.sym.data!r}, which nobody writes"
    for buffer, each in touches.items():
        if buffer.kind.data not in _WRITTEN_BY_HOST:
            yield from _unwritten(buffer, each)


def _unwritten(buffer: BufferOp, touches: Sequence[Touch]) -> Iterator[str]:
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
        for box in touch.slices():
            if not written[box].all():
                yield (
                    f"@{touch.family.name} reads elements of {buffer.sym.data!r} that nobody has "
                    "written in the step"
                )
                break
