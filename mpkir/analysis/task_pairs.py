"""How many pairs of tasks conflict, counted by classes of tasks that touch the same boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpkir.analysis.dependence import Conflict, Hazard, Touch
from mpkir.analysis.families import Ints


def pairs_of(conflict: Conflict, of: Hazard | None = None) -> int:
    """Pairs of tasks of two families that conflict, each once; only for some reasons, if given."""
    overlaps = [o for o in conflict.overlaps if of is None or o.hazard & of]
    if not overlaps:
        return 0
    earlier = _Classes.of(conflict.earlier.size, [o.earlier for o in overlaps])
    later = _Classes.of(conflict.later.size, [o.later for o in overlaps])
    met: list[Ints] = []
    for number, overlap in enumerate(overlaps):
        a, b = earlier.users[number], later.users[number]
        for_a, for_b = a.count[overlap.earlier_box], b.count[overlap.later_box]
        # Of each pair of boxes the product of the classes that touch them.
        pairs = for_a * for_b
        pair = np.repeat(np.arange(len(pairs), dtype=np.int64), pairs)
        place = np.arange(len(pair), dtype=np.int64) - np.repeat(np.cumsum(pairs) - pairs, pairs)
        first = a.classes[a.begin[overlap.earlier_box][pair] + place // for_b[pair]]
        second = b.classes[b.begin[overlap.later_box][pair] + place % for_b[pair]]
        met.append(first * len(later.sizes) + second)
    first, second = np.divmod(np.unique(np.concatenate(met)), len(later.sizes))
    return int((earlier.sizes[first] * later.sizes[second]).sum())


@dataclass(frozen=True, eq=False)
class _Users:
    """Which classes touch each distinct box of an access: `classes[begin[box]:][:count[box]]`."""

    classes: Ints
    begin: Ints
    count: Ints


@dataclass(frozen=True, eq=False)
class _Classes:
    """Tasks of a family that touch the same boxes by all of some accesses are one class."""

    sizes: Ints
    """Tasks of each class."""
    users: list[_Users]
    """Of the boxes of each access."""

    @staticmethod
    def of(size: int, touches: list[Touch]) -> _Classes:
        columns = [_sets_of_boxes(size, touch) for touch in touches]
        _, number, sizes = np.unique(
            np.stack(columns, axis=1), axis=0, return_inverse=True, return_counts=True
        )
        number = number.reshape(-1)
        users: list[_Users] = []
        for touch in touches:
            used = np.unique(np.stack([touch.box, number[touch.boxes.tasks]], axis=1), axis=0)
            count = np.bincount(used[:, 0], minlength=len(touch.low))
            users.append(_Users(used[:, 1], np.cumsum(count) - count, count))
        return _Classes(sizes, users)


def _sets_of_boxes(size: int, touch: Touch) -> Ints:
    """A number for each task; equal where tasks touch the same distinct boxes."""
    tasks = touch.boxes.tasks
    count = np.bincount(tasks, minlength=size)
    order = np.lexsort((touch.box, tasks))
    rows = np.full((size, max(1, int(count.max(initial=0)))), -1, np.int64)
    place = np.arange(len(tasks)) - np.repeat(np.cumsum(count) - count, count)
    rows[tasks[order], place] = touch.box[order]
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
