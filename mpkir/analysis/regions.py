"""Boxes of buffers as integer arrays, so that overlap of families is arithmetic on columns.

Families see a buffer in different shapes. Row-major shapes of one buffer are compared in their
common refinement (64 and 4x16 meet in 4x16); a box that does not fit a refined shape falls into
several boxes, so that nothing is lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np

from mpkir.analysis.families import Access, Ints, coordinates_of, evaluate


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of many tasks in one shape: row r is part of what task `tasks[r]` touches."""

    tasks: Ints
    """[rows]"""
    low: Ints
    """First elements, [rows, rank]"""
    high: Ints
    """Ends, exclusive, [rows, rank]"""

    def __len__(self) -> int:
        return len(self.tasks)


def boxes_of(access: Access, coordinates: Ints) -> Boxes:
    """What the tasks at these coordinates touch, in the access's shape, cut at its end."""
    low = evaluate(access.box.offsets.data, coordinates)
    high = np.minimum(low + np.array(access.box.shape, np.int64), np.array(access.shape, np.int64))
    tasks = np.arange(len(coordinates), dtype=np.int64)
    inside = (low < high).all(axis=1)
    return Boxes(tasks[inside], low[inside], high[inside])


def _ends(shape: tuple[int, ...]) -> set[int]:
    """Products of the last dimensions: where dimensions end in a row-major layout."""
    result, product = {1}, 1
    for size in reversed(shape):
        product *= size
        result.add(product)
    return result


def common_shape(shapes: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """The coarsest shape of which all these row-major shapes of one buffer merge dimensions.

    Where there is none (6x4 and 4x6), the flat shape.
    """
    ends = sorted(set[int]().union(*map(_ends, shapes)))
    if any(b % a for a, b in pairwise(ends)):
        return (ends[-1],)
    sizes = tuple(b // a for a, b in pairwise(ends))
    return tuple(reversed(sizes)) or (1,)


def refine(boxes: Boxes, shape: tuple[int, ...], target: tuple[int, ...]) -> Boxes:
    """The same elements as boxes of `target`, a refinement of `shape` or its flat form."""
    if shape == target:
        return boxes
    if not _ends(shape) <= _ends(target):
        return _runs(boxes, shape)
    if target == (1,):
        ones = np.ones((len(boxes), 1), np.int64)
        return Boxes(boxes.tasks, ones - 1, ones)
    groups = _group(shape, target)
    low, high = boxes.low, boxes.high
    result = Boxes(boxes.tasks, low[:, :0], high[:, :0])
    rows = np.arange(len(boxes), dtype=np.int64)
    for dim, sizes in enumerate(groups):
        # Every row so far is multiplied by the parts of its interval in this dimension.
        owner, part_low, part_high = _digits(low[rows, dim], high[rows, dim], sizes)
        rows = rows[owner]
        result = Boxes(
            result.tasks[owner],
            np.concatenate([result.low[owner], part_low], axis=1),
            np.concatenate([result.high[owner], part_high], axis=1),
        )
    return result


def _group(shape: tuple[int, ...], target: tuple[int, ...]) -> list[tuple[int, ...]]:
    """For each dimension of `shape` the dimensions of `target` that it is made of."""
    groups: list[tuple[int, ...]] = []
    rest = list(target)
    for size in shape:
        group: list[int] = []
        while prod(group) < size:
            group.append(rest.pop(0))
        groups.append(tuple(group))
    return groups


def _digits(low: Ints, high: Ints, sizes: tuple[int, ...]) -> tuple[Ints, Ints, Ints]:
    """Cut intervals of a flat dimension into boxes of `sizes`: owner, low, high of each part."""
    count = len(low)
    if len(sizes) <= 1:
        columns = (count, len(sizes))
        return (
            np.arange(count),
            low.reshape(-1, 1)[:, : columns[1]],
            high.reshape(-1, 1)[:, : columns[1]],
        )
    inner = prod(sizes[1:])
    first, last = low // inner, (high - 1) // inner
    start, end = low - first * inner, high - last * inner
    one = first == last
    # The first row where it is partial, the whole rows between, the last row where it is partial.
    head = ~one & (start > 0)
    tail = ~one & (end < inner)
    body_first = np.where(head, first + 1, first)
    body_last = np.where(tail, last - 1, last)
    body = ~one & (body_first <= body_last)
    parts = [
        _inner(np.flatnonzero(one), first, first, start, end, sizes),
        _inner(np.flatnonzero(head), first, first, start, np.full(count, inner), sizes),
        _inner(np.flatnonzero(tail), last, last, np.zeros(count, np.int64), end, sizes),
        _inner(
            np.flatnonzero(body),
            body_first,
            body_last,
            np.zeros(count, np.int64),
            np.full(count, inner),
            sizes,
        ),
    ]
    owner, part_low, part_high = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(owner, kind="stable")
    return owner[order], part_low[order], part_high[order]


def _inner(
    rows: Ints, first: Ints, last: Ints, start: Ints, end: Ints, sizes: tuple[int, ...]
) -> tuple[Ints, Ints, Ints]:
    owner, low, high = _digits(start[rows], end[rows], sizes[1:])
    rows = rows[owner]
    return (
        rows,
        np.concatenate([first[rows, None], low], axis=1),
        np.concatenate([last[rows, None] + 1, high], axis=1),
    )


def _runs(boxes: Boxes, shape: tuple[int, ...]) -> Boxes:
    """Boxes as runs of consecutive elements of the flat buffer."""
    strides = np.array([prod(shape[d + 1 :]) for d in range(len(shape))], np.int64)
    tasks: list[Ints] = []
    starts: list[Ints] = []
    lengths: list[Ints] = []
    for row in range(len(boxes)):
        sizes = boxes.high[row] - boxes.low[row]
        whole = sizes == np.array(shape)
        # Dimensions from `last` on are contiguous: all of each but the first of them.
        last = len(shape) - 1
        while last > 0 and whole[last]:
            last -= 1
        outer = coordinates_of(tuple(int(s) for s in sizes[:last]) or (1,))
        if last == 0:
            outer = outer[:, :0]
        start = (outer + boxes.low[row, :last]) @ strides[:last] + boxes.low[row, last:] @ strides[
            last:
        ]
        tasks.append(np.full(len(start), boxes.tasks[row]))
        starts.append(start)
        lengths.append(np.full(len(start), prod(int(s) for s in sizes[last:])))
    if not tasks:
        return Boxes(boxes.tasks, boxes.low[:, :1], boxes.high[:, :1])
    begin = np.concatenate(starts)[:, None]
    return Boxes(np.concatenate(tasks), begin, begin + np.concatenate(lengths)[:, None])


def distinct(boxes: Boxes) -> tuple[Ints, Ints, Ints]:
    """Low and high of the distinct boxes, and for each row the number of its distinct box."""
    rank = boxes.low.shape[1]
    rows = np.concatenate([boxes.low, boxes.high], axis=1)
    unique, inverse = np.unique(rows, axis=0, return_inverse=True)
    return unique[:, :rank], unique[:, rank:], inverse.reshape(-1)


def overlapping(low_a: Ints, high_a: Ints, low_b: Ints, high_b: Ints) -> tuple[Ints, Ints]:
    """All pairs (a, b) of boxes that share an element.

    Candidates come from sorted intervals of the dimension that separates best, so work follows the
    number of pairs found there.
    """
    none = np.zeros(0, np.int64)
    if not len(low_a) or not len(low_b):
        return none, none
    distinct_starts = [len(np.unique(low_a[:, d])) for d in range(low_a.shape[1])]
    dim = int(np.argmax(distinct_starts))
    order = np.argsort(low_a[:, dim], kind="stable")
    starts = low_a[order, dim]
    # The furthest end so far is monotone even where ends are not.
    ends = np.maximum.accumulate(high_a[order, dim])
    begin = np.searchsorted(ends, low_b[:, dim], side="right")
    stop = np.searchsorted(starts, high_b[:, dim], side="left")
    counts = np.maximum(stop - begin, 0)
    b = np.repeat(np.arange(len(low_b), dtype=np.int64), counts)
    first = np.cumsum(counts) - counts
    a = order[np.arange(counts.sum(), dtype=np.int64) - np.repeat(first - begin, counts)]
    meet = ((low_a[a] < high_b[b]) & (low_b[b] < high_a[a])).all(axis=1)
    return a[meet], b[meet]
