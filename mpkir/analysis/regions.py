"""Boxes of buffers as integer arrays, so that overlap of families is arithmetic on columns.

Families see a buffer through different views. Those of one buffer are compared in a common shape:
the digits of an element's number in the mixed radix of all strides (64 and 4x16 meet in 4x16, a
16x4 and its transpose in 16x4, every third of 12 in 4x3). A box that does not fit the common shape
falls into several boxes, so that nothing is lost; where strides do not divide each other, into runs
of consecutive elements.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np

from mpkir.analysis.families import Access, Ints, coordinates_of, evaluate
from mpkir.dialects.task import row_major


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
    """What the tasks at these coordinates touch, in the access's shape, cut at its bounds."""
    offsets = evaluate(access.box.offsets.data, coordinates)
    ends = offsets + np.array(access.box.shape, np.int64)
    low, high = np.maximum(offsets, 0), np.minimum(ends, np.array(access.shape, np.int64))
    tasks = np.arange(len(coordinates), dtype=np.int64)
    inside = (low < high).all(axis=1)
    return Boxes(tasks[inside], low[inside], high[inside])


def _steps(access: Access) -> set[int]:
    """The strides along which an access has more than one element."""
    return {
        stride for stride, n in zip(access.strides, access.shape, strict=True) if n > 1 and stride
    }


def common_shape(accesses: Iterable[Access], size: int) -> tuple[int, ...]:
    """The coarsest shape of a buffer's `size` elements of which the dimensions of all these
    accesses are dimensions, parts of one, or adjacent ones merged.

    The first dimension may reach beyond the last element. Where there is no such shape (6x4 and
    4x6; a slice that is not aligned to the rest), the flat shape.
    """
    accesses = list(accesses)
    ends = sorted({1}.union(*map(_steps, accesses)))
    if any(b % a for a, b in pairwise(ends)):
        return (size,)
    sizes = [b // a for a, b in pairwise(ends)]
    first = -(-size // ends[-1])
    shape = tuple(reversed([*sizes, first] if first > 1 else sizes)) or (1,)
    return shape if all(_groups(access, shape) for access in accesses) else (size,)


@dataclass(frozen=True)
class _Group:
    """Adjacent dimensions of a common shape that are one dimension of an access, or none."""

    sizes: tuple[int, ...]
    dim: int | None
    offset: int
    """Where the access's first element lies in these dimensions."""


def _groups(access: Access, shape: tuple[int, ...]) -> list[_Group]:
    """The dimensions of `shape` as those of an access; none if an access carries from one group to
    the next.
    """
    dims = {
        stride: dim
        for dim, (stride, n) in enumerate(zip(access.strides, access.shape, strict=True))
        if n > 1 and stride
    }
    result: list[_Group] = []
    sizes: list[int] = []
    place, rest = prod(shape), access.offset
    for size in shape:
        place //= size
        sizes.append(size)
        dim = dims.get(place)
        # What lies below the access's least stride is one group, a single element.
        if dim is None and place > 1:
            continue
        offset, rest = divmod(rest, place)
        if offset + (1 if dim is None else access.shape[dim]) > prod(sizes):
            return []
        result.append(_Group(tuple(sizes), dim, offset))
        sizes = []
    return result


def refine(boxes: Boxes, access: Access, target: tuple[int, ...]) -> Boxes:
    """The same elements as boxes of `target`, a common shape of this access and others."""
    groups = _groups(access, target)
    if not groups or not {1, *_steps(access)} <= set(row_major(target)):
        return _runs(boxes, access)
    low, high = boxes.low, boxes.high
    result = Boxes(boxes.tasks, low[:, :0], high[:, :0])
    rows = np.arange(len(boxes), dtype=np.int64)
    for group in groups:
        # Every row so far is multiplied by the parts of its interval in this dimension.
        if group.dim is None:
            begin = np.full(len(rows), group.offset, np.int64)
            end = begin + 1
        else:
            begin = low[rows, group.dim] + group.offset
            end = high[rows, group.dim] + group.offset
        owner, part_low, part_high = _digits(begin, end, group.sizes)
        rows = rows[owner]
        result = Boxes(
            result.tasks[owner],
            np.concatenate([result.low[owner], part_low], axis=1),
            np.concatenate([result.high[owner], part_high], axis=1),
        )
    return result


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


def _runs(boxes: Boxes, access: Access) -> Boxes:
    """Boxes as runs of consecutive elements of the flat buffer."""
    steps = sorted(
        ((stride, dim) for dim, stride in enumerate(access.strides) if stride), reverse=True
    )
    dims = [dim for _, dim in steps]
    strides = np.array([stride for stride, _ in steps], np.int64)
    tasks: list[Ints] = []
    starts: list[Ints] = []
    lengths: list[Ints] = []
    for row in range(len(boxes)):
        low = boxes.low[row, dims]
        sizes = boxes.high[row, dims] - low
        # Dimensions from `last` on are contiguous: each is a whole number of the next.
        last, length = len(dims), 1
        while last > 0 and (strides[last - 1] == length or sizes[last - 1] == 1):
            last -= 1
            length *= int(sizes[last])
        start = coordinates_of((1, *(int(n) for n in sizes[:last])))[:, 1:] @ strides[:last]
        start = start + (access.offset + int(low @ strides))
        tasks.append(np.full(len(start), boxes.tasks[row]))
        starts.append(start)
        lengths.append(np.full(len(start), length))
    if not tasks:
        none = np.zeros((0, 1), np.int64)
        return Boxes(boxes.tasks, none, none)
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
