"""Redundant edges of families against the closure of single tasks."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mpkir.analysis.dependence import connected
from mpkir.analysis.order import FamilyEdge, redundant_edges


def closure(sizes: list[int], edges: list[FamilyEdge]) -> np.ndarray:
    """Which task comes before which."""
    offsets = np.cumsum([0, *sizes])
    before = np.zeros((offsets[-1], offsets[-1]), bool)
    for edge in edges:
        a, b = offsets[edge.earlier], offsets[edge.later]
        tied = edge.earlier_group[:, None] == edge.later_group[None, :]
        before[a : a + tied.shape[0], b : b + tied.shape[1]] |= tied
    for middle in range(len(before)):
        before |= before[:, middle, None] & before[None, middle, :]
    return before


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[int], list[FamilyEdge]]:
    sizes = draw(st.lists(st.integers(1, 4), min_size=2, max_size=8))
    edges: list[FamilyEdge] = []
    for later in range(len(sizes)):
        for earlier in range(later):
            if not draw(st.booleans()):
                continue
            groups = draw(st.integers(1, min(sizes[earlier], sizes[later])))
            labels = [
                np.array(draw(st.permutations([i % groups for i in range(sizes[f])])), np.int64)
                for f in (earlier, later)
            ]
            edges.append(FamilyEdge(earlier, later, labels[0], labels[1], groups))
    return sizes, edges


@given(graphs())
def test_exactly_the_edges_that_order_nothing_new_are_redundant(
    graph: tuple[list[int], list[FamilyEdge]],
):
    sizes, edges = graph
    redundant = redundant_edges(sizes, edges)
    kept = [edge for edge, is_redundant in zip(edges, redundant, strict=True) if not is_redundant]
    np.testing.assert_array_equal(closure(sizes, kept), closure(sizes, edges))
    for edge in kept:
        without = [other for other in kept if other is not edge]
        assert not np.array_equal(closure(sizes, without), closure(sizes, kept))


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=14))
def test_connected_components(pairs: list[tuple[int, int]]):
    a, b = (np.array([pair[i] for pair in pairs], np.int64) for i in (0, 1))
    reach = np.eye(12, dtype=bool)
    reach[a, b] = reach[b, a] = True
    for middle in range(12):
        reach |= reach[:, middle, None] & reach[None, middle, :]
    np.testing.assert_array_equal(connected(12, a, b), reach.argmax(axis=1))
