"""Reachability among the tasks of families, by classes: tasks in the same edges are one node.

An edge of families splits both into groups; a task of the later family follows every task of the
earlier one in its group. Of several ranks, which are all alike, an edge may lead from the tasks of
every rank to those of any. A node then has two bits: the tasks of the own rank are before, and
those of all ranks are. Only such an edge turns the first into the second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mpkir.analysis.families import Ints


@dataclass(frozen=True, eq=False)
class FamilyEdge:
    """Tasks of two families, by number, tied group by group."""

    earlier: int
    later: int
    earlier_group: Ints
    """Group of each task of the earlier family; [its tasks]."""
    later_group: Ints
    groups: int
    crosses_ranks: bool = False


def redundant_edges(sizes: Sequence[int], edges: Sequence[FamilyEdge]) -> list[bool]:
    """Which edges order no pair of tasks that the others do not order too.

    All of these may be left out together: in an acyclic graph they contain no edge of its
    transitive reduction. Edges lead from lower to higher family numbers; there is at most one for
    each pair of families.
    """
    incoming: list[list[int]] = [[] for _ in sizes]
    touching: list[list[Ints]] = [[] for _ in sizes]
    for number, edge in enumerate(edges):
        incoming[edge.later].append(number)
        touching[edge.earlier].append(edge.earlier_group)
        touching[edge.later].append(edge.later_group)
    representative = [_classes(size, labels) for size, labels in zip(sizes, touching, strict=True)]
    outgoing: list[list[int]] = [[] for _ in sizes]
    for number, edge in enumerate(edges):
        outgoing[edge.earlier].append(number)
    slots = _Slots({e.earlier: e.later for e in sorted(edges, key=lambda edge: edge.later)})
    direct: dict[int, list[int]] = {}
    reached: dict[int, list[int]] = {}
    result = [False] * len(edges)
    stride = 1 + any(edge.crosses_ranks for edge in edges)
    for family, representatives in enumerate(representative):
        into = incoming[family]
        slots.release_before(family)
        for e in into:
            known = slots.known_to(edges[e].earlier)
            direct[e] = [bits & known for bits in direct[e]]
            reached[e] = [bits & known for bits in reached[e]]
        # Nodes that wait for the same counters have the same before them.
        waits, kind = _distinct_rows(
            [edges[e].later_group[representatives] for e in into], len(representatives)
        )
        before = [0] * len(waits)
        for at, row in enumerate(waits):
            for e, group in zip(into, row, strict=True):
                before[at] |= reached[e][group]
        always = {e: _common(reached[e]) for e in into}
        for place, e in enumerate(into):
            # Most edges are implied by one that all tasks wait for; only the others need each row.
            result[e] = len(into) > 1 and (
                _is_covered(_together(direct[e]), (always[o] for o in into if o != e))
                or all(
                    _is_covered(
                        direct[e][row[place]],
                        (reached[o][group] for o, group in zip(into, row, strict=True) if o != e),
                    )
                    for row in waits
                )
            )
        for e in into:
            del direct[e], reached[e]
        begin = slots.take(family, stride * len(representatives))
        for e in outgoing[family]:
            direct[e] = [0] * edges[e].groups
            reached[e] = [0] * edges[e].groups
            groups = edges[e].earlier_group[representatives].tolist()
            for node, (at, group) in enumerate(zip(kind, groups, strict=True)):
                direct[e][group] |= 1 << (begin + stride * node)
                reached[e][group] |= 1 << (begin + stride * node) | before[at]
            if edges[e].crosses_ranks:
                direct[e] = [on_all_ranks(bits) for bits in direct[e]]
                reached[e] = [on_all_ranks(bits) for bits in reached[e]]
    return result


def on_all_ranks(bits: int) -> int:
    """What is known to be done when tasks that know this are, on every rank: pairs of bits, the
    own rank's first.
    """
    own = bits & (1 << (bits.bit_length() + 1) // 2 * 2) // 3
    return bits | own << 1


class _Slots:
    """Bits of the sets of nodes. A family's bits are used again after the last edge that leads from
    it, so that sets are as long as edges reach, not as the program.
    """

    def __init__(self, last_use: dict[int, int]) -> None:
        self._last_use = last_use
        self._ranges: dict[int, tuple[int, int]] = {}

    def release_before(self, family: int) -> None:
        """Forget the families from which no edge leads to this one or later ones."""
        for other in [f for f in self._ranges if self._last_use[f] < family]:
            del self._ranges[other]

    def known_to(self, family: int) -> int:
        """The bits that mean now what they meant when this family took its own."""
        return _together(
            (1 << end) - (1 << begin) for f, (begin, end) in self._ranges.items() if f <= family
        )

    def take(self, family: int, count: int) -> int:
        """The first of this many bits for a family, if edges lead from it."""
        begin = 0
        for taken, end in sorted(self._ranges.values()):
            if begin + count <= taken:
                break
            begin = end
        if family in self._last_use:
            self._ranges[family] = begin, begin + count
        return begin


def _distinct_rows(columns: Sequence[Ints], rows: int) -> tuple[list[list[int]], list[int]]:
    """The distinct rows of some columns, and for each row which of these it is."""
    if not columns:
        return [[]], [0] * rows
    found, number = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    return found.tolist(), number.reshape(-1).tolist()


def _common(sets: Iterable[int]) -> int:
    result = -1
    for bits in sets:
        result &= bits
    return result


def _together(sets: Iterable[int]) -> int:
    result = 0
    for bits in sets:
        result |= bits
    return result


def _is_covered(wanted: int, given: Iterable[int]) -> bool:
    for bits in given:
        wanted &= ~bits
        if not wanted:
            break
    return not wanted


def _classes(size: int, labels: Sequence[Ints]) -> Ints:
    """One task of each class."""
    if not labels:
        return np.zeros(1, np.int64)
    assert all(len(column) == size for column in labels)
    return np.unique(np.stack(labels, axis=1), axis=0, return_index=True)[1]
