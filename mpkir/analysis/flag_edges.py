"""Who waits for whom through flagged buffers: edges that follow from the regions alone.

Every element of a flagged buffer carries the number of the step that wrote it, and whoever reads a
box looks at all of its elements until they have come. So a reader waits for every task that writes
some element of its box, and knows that those of which it has seen every element have read all that
they read. What it reads of a buffer by several accesses counts as one where these do not overlap.
Readers of the same boxes are a *group*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mpkir.analysis.dependence import Touch
from mpkir.analysis.families import Access, Family, Ints
from mpkir.analysis.order import FamilyEdge
from mpkir.analysis.orderings import BufferAccesses
from mpkir.analysis.regions import Boxes, distinct, overlapping
from mpkir.dialects import task

Bools: TypeAlias = npt.NDArray[np.bool_]

MOST_LAYERS = 8
"""Overlapping groups beyond these give no order in `family_edges`; it then knows less."""


@dataclass(frozen=True, eq=False)
class Groups:
    """Tasks of a reading family by what they read, and who writes that; rows in any order."""

    count: int
    target: Ints
    """Each reading task, once, ascending."""
    target_group: Ints
    source: Ints
    """Tasks that write an element which a group reads; once for each group."""
    source_group: Ints
    whole: Bools
    """Whether the group reads all that the source writes of the buffer by one access."""


@dataclass(frozen=True, eq=False)
class FlagEdge:
    """What a family reads of a buffer that an access of an earlier one has flagged."""

    buffer: task.BufferOp
    earlier: Family
    later: Family
    groups: Groups

    @property
    def crosses_ranks(self) -> bool:
        """Whether the readers of any rank look at what the tasks of all ranks have written."""
        return self.buffer.exchange is not None

    @property
    def is_scattered(self) -> bool:
        """Whether a reader looks at its rank's part only: what it has seen of who writes is then
        what the readers of all ranks have seen together.
        """
        return task.scattered(self.buffer) is not None


def is_flagged(access: Access) -> bool:
    """Whether an access is to a flagged buffer."""
    return access.buffer.flagged is not None


def flag_edges_of(families: Sequence[Family]) -> list[FlagEdge]:
    """The edges of a module's families, in their order, by flagged buffers."""
    grouped: dict[task.BufferOp, list[tuple[Family, Access]]] = {}
    for family in families:
        for access in family.accesses:
            if is_flagged(access):
                grouped.setdefault(access.buffer, []).append((family, access))
    known: dict[tuple[object, ...], list[Groups]] = {}
    result: list[FlagEdge] = []
    for buffer, given in grouped.items():
        accesses = BufferAccesses(buffer, given)
        readers: dict[Family, list[int]] = {}
        for j, (family, access) in enumerate(given):
            if not access.is_write:
                readers.setdefault(family, []).append(j)
        for i, (earlier, write) in enumerate(given):
            for later, reads in readers.items():
                if not write.is_write or earlier.number >= later.number:
                    continue
                forms = [_form(later, given[j][1]) for j in reads]
                key = (*_form(earlier, write), *(part for form in forms for part in form))
                if key not in known:
                    seen = _together([accesses.touches[j] for j in reads])
                    each = (_groups(accesses.touches[i], read) for read in seen)
                    known[key] = [groups for groups in each if groups is not None]
                result += [FlagEdge(buffer, earlier, later, groups) for groups in known[key]]
    return result


def _together(touches: Sequence[Touch]) -> Sequence[Touch]:
    """Several accesses of a family as one, if their boxes are disjoint or equal."""
    boxes = Boxes(
        np.concatenate([touch.boxes.tasks for touch in touches]),
        np.concatenate([touch.boxes.low for touch in touches]),
        np.concatenate([touch.boxes.high for touch in touches]),
    )
    low, high, box = distinct(boxes)
    one, other = overlapping(low, high, low, high)
    if len(touches) > 1 and (one != other).any():
        # An element in two boxes would count twice.
        return touches
    first = touches[0]
    return [Touch(first.family, first.access, first.shape, boxes, low, high, box)]


def flagged_pairs(families: Sequence[Family]) -> list[tuple[Family, Family]]:
    """Families of which the later reads a flagged buffer that the earlier writes, each pair once;
    without a look at boxes.
    """
    writers: dict[task.BufferOp, list[Family]] = {}
    pairs: dict[tuple[int, int], tuple[Family, Family]] = {}
    for family in families:
        for access in family.accesses:
            if is_flagged(access) and access.is_write:
                writers.setdefault(access.buffer, []).append(family)
    for family in families:
        for access in family.accesses:
            if is_flagged(access) and not access.is_write:
                for writer in writers.get(access.buffer, ()):
                    if writer.number < family.number:
                        pairs[writer.number, family.number] = writer, family
    return [pairs[key] for key in sorted(pairs)]


def family_edges(edge: FlagEdge) -> list[FamilyEdge]:
    """The pairs of tasks of which the later knows that the earlier has read all that it reads, as
    edges in which every task has one group. Nothing is said that does not hold.
    """
    groups = edge.groups
    layers: list[tuple[Ints, dict[bytes, int], Ints]] = []
    for number in range(groups.count):
        sources = np.unique(groups.source[(groups.source_group == number) & groups.whole])
        if not len(sources):
            continue
        targets = groups.target[groups.target_group == number]
        key = sources.tobytes()
        for earlier, labels, later in layers:
            if key not in labels and (earlier[sources] < 0).all():
                labels[key] = len(labels)
                earlier[sources] = labels[key]
            if key in labels:
                later[targets] = labels[key]
                break
        else:
            if len(layers) == MOST_LAYERS:
                break
            earlier = np.full(edge.earlier.size, -1, np.int64)
            later = np.full(edge.later.size, -1, np.int64)
            earlier[sources] = later[targets] = 0
            layers.append((earlier, {key: 0}, later))
    result: list[FamilyEdge] = []
    for earlier, labels, later in layers:
        # Who takes no part has a group that nobody of the other family is in.
        count = len(labels)
        result.append(
            FamilyEdge(
                edge.earlier.number,
                edge.later.number,
                np.where(earlier < 0, count, earlier),
                np.where(later < 0, count + 1, later),
                count + 2,
                edge.crosses_ranks,
            )
        )
    return result


def _form(family: Family, access: Access) -> tuple[object, ...]:
    """What the groups depend on: equal in all layers of a model."""
    return family.op.grid, access.shape, access.strides, access.offset, access.box


def _groups(write: Touch, read: Touch) -> Groups | None:
    """The readers of an access by what they read; None if nobody reads what the other writes."""
    target, target_group, group_box = _by_boxes(read)
    a, b = overlapping(write.low, write.high, read.low, read.high)
    low = np.maximum(write.low[a], read.low[b])
    shared = (np.minimum(write.high[a], read.high[b]) - low).prod(axis=1)
    # A row for each pair of boxes that meet, group that reads the one, task that writes the other.
    pair, row = _join(b, group_box[:, 1])
    a, group, shared = a[pair], group_box[row, 0], shared[pair]
    pair, row = _join(a, write.box)
    source, group, shared = write.boxes.tasks[row], group[pair], shared[pair]
    if not len(source):
        return None
    number, inverse = np.unique(np.stack([group, source], axis=1), axis=0, return_inverse=True)
    seen = np.zeros(len(number), np.int64)
    np.add.at(seen, inverse.reshape(-1), shared)
    written = np.zeros(write.family.size, np.int64)
    volume = (write.high - write.low).prod(axis=1)
    np.add.at(written, write.boxes.tasks, volume[write.box])
    whole = seen == written[number[:, 1]]
    count = int(target_group.max()) + 1
    return Groups(count, target, target_group, number[:, 1], number[:, 0], whole)


def _by_boxes(touch: Touch) -> tuple[Ints, Ints, Ints]:
    """The tasks of an access, the group of each by what it touches, and rows (group, box)."""
    rows = np.unique(np.stack([touch.boxes.tasks, touch.box], axis=1), axis=0)
    tasks, first = np.unique(rows[:, 0], return_index=True)
    boxes = np.split(rows[:, 1], first[1:])
    numbers: dict[bytes, int] = {}
    group = np.array([numbers.setdefault(each.tobytes(), len(numbers)) for each in boxes], np.int64)
    members = [
        (number, box)
        for key, number in numbers.items()
        for box in np.frombuffer(key, np.int64).tolist()
    ]
    return tasks, group, np.array(members, np.int64).reshape(-1, 2)


def _join(keys: Ints, column: Ints) -> tuple[Ints, Ints]:
    """All pairs of a place in `keys` and a row of `column` with the same value."""
    order = np.argsort(column, kind="stable")
    first = np.searchsorted(column[order], keys, "left")
    count = np.searchsorted(column[order], keys, "right") - first
    place = np.repeat(np.arange(len(keys)), count)
    within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    return place, order[first[place] + within]
