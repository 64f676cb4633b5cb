"""Which elements of a buffer a whole family touches, as a few boxes for any number of tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mpkir.analysis.digits import Digit, Linear, independent, linear_of
from mpkir.analysis.families import Access
from mpkir.analysis.regions import Boxes, refine

Corners = tuple[tuple[int, ...], tuple[int, ...]]
"""First element and end, exclusive, of a box."""

MAX_BOXES = 256
"""Sets of more boxes than this are not kept in this form."""


@dataclass(frozen=True)
class ElementSet:
    """Disjoint boxes in the common shape of a buffer's accesses."""

    boxes: tuple[Corners, ...]

    def __bool__(self) -> bool:
        return bool(self.boxes)

    def meets(self, other: ElementSet) -> bool:
        """Whether there is a common element."""
        return any(_meet(a, b) for a in self.boxes for b in other.boxes)

    def without(self, other: ElementSet) -> ElementSet:
        """The elements that are not in another set."""
        rest = list(self.boxes)
        for box in other.boxes:
            rest = [part for each in rest for part in _cut_out(each, box)]
        return ElementSet(tuple(rest))


def _meet(a: Corners, b: Corners) -> bool:
    return all(
        low_a < high_b and low_b < high_a
        for low_a, high_a, low_b, high_b in zip(*a, *b, strict=True)
    )


def _cut_out(box: Corners, hole: Corners) -> Iterator[Corners]:
    """What a hole leaves of a box: for each dimension what lies before and behind it."""
    if not _meet(box, hole):
        yield box
        return
    low, high = list(box[0]), list(box[1])
    for dim, (begin, end) in enumerate(zip(*hole, strict=True)):
        if low[dim] < begin:
            yield tuple(low), (*high[:dim], begin, *high[dim + 1 :])
            low[dim] = begin
        if end < high[dim]:
            yield (*low[:dim], end, *low[dim + 1 :]), tuple(high)
            high[dim] = end


def elements_of(access: Access, grid: Sequence[int], shape: tuple[int, ...]) -> ElementSet | None:
    """All elements that the tasks of a grid touch; `shape` is the common shape of the buffer.

    None where their boxes leave gaps, or depend on each other from one dimension to another.
    """
    lows: list[int] = []
    highs: list[int] = []
    digits: list[Digit] = []
    for expression, size, n in zip(
        access.box.offsets.data.results, access.box.shape, access.shape, strict=True
    ):
        low = linear_of(expression, grid)
        if low is None or not _is_gapless(low, size):
            return None
        digits += [digit for digit, _ in low.terms]
        lows.append(max(low.least, 0))
        highs.append(min(low.greatest + size, n))
    if not independent(digits):
        return None
    if any(low >= high for low, high in zip(lows, highs, strict=True)):
        return ElementSet(())
    row = Boxes(np.zeros(1, np.int64), np.array([lows], np.int64), np.array([highs], np.int64))
    boxes = refine(row, access, shape)
    if len(boxes) > MAX_BOXES:
        return None
    corners = zip(boxes.low.tolist(), boxes.high.tolist(), strict=True)
    return ElementSet(tuple((tuple(low), tuple(high)) for low, high in corners))


def _is_gapless(low: Linear, size: int) -> bool:
    """Whether intervals of this size from all values of `low` on form one interval."""
    reach = size
    for factor, length in sorted((abs(f), digit.size) for digit, f in low.terms):
        if factor > reach:
            return False
        reach += factor * (length - 1)
    return True
