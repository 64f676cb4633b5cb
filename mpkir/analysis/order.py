"""Reachability among the tasks of families, by classes: tasks in the same edges are one node.

An edge of families splits both into groups; a task of the later family follows every task of the
earlier one in its group.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    offsets = np.cumsum([0, *map(len, representative)]).tolist()
    before = [0] * offsets[-1]
    """Bit set of the nodes before each node."""
    outgoing: list[list[int]] = [[] for _ in sizes]
    for number, edge in enumerate(edges):
        outgoing[edge.earlier].append(number)
    direct: dict[int, list[int]] = {}
    reached: dict[int, list[int]] = {}
    result = [False] * len(edges)
    for family in range(len(sizes)):
        nodes = range(offsets[family], offsets[family + 1])
        labels: dict[int, list[int]] = {
            e: edges[e].later_group[representative[family]].tolist() for e in incoming[family]
        }
        for at, node in enumerate(nodes):
            for e in incoming[family]:
                before[node] |= reached[e][labels[e][at]]
        for e in incoming[family]:
            others = [o for o in incoming[family] if o != e]
            result[e] = bool(others) and all(
                _is_covered(direct[e][labels[e][at]], [reached[o][labels[o][at]] for o in others])
                for at in range(len(nodes))
            )
        for e in outgoing[family]:
            direct[e] = [0] * edges[e].groups
            reached[e] = [0] * edges[e].groups
            groups = edges[e].earlier_group[representative[family]].tolist()
            for node, group in zip(nodes, groups, strict=True):
                direct[e][group] |= 1 << node
                reached[e][group] |= 1 << node | before[node]
    return result


def _is_covered(wanted: int, given: Sequence[int]) -> bool:
    for bits in given:
        wanted &= ~bits
    return not wanted


def _classes(size: int, labels: Sequence[Ints]) -> Ints:
    """One task of each class."""
    if not labels:
        return np.zeros(1, np.int64)
    assert all(len(column) == size for column in labels)
    return np.unique(np.stack(labels, axis=1), axis=0, return_index=True)[1]
