"""Maps from tasks to groups, found again from the groups alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpkir.analysis.families import coordinates_of, evaluate
from mpkir.analysis.labels import fit


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3
    ),
    st.data(),
)
def test_what_an_affine_map_gives_is_found(dims: list[tuple[int, int, int]], data: st.DataObject):
    grid = tuple(size for size, _, _ in dims)
    points = coordinates_of(grid)
    labels, stride = np.zeros(len(points), np.int64), 1
    for dim, (size, divisor, period) in enumerate(dims):
        digits = points[:, dim] // divisor % period
        labels += digits * stride
        stride *= int(digits.max()) + 1
    map = fit(labels, grid, stride)
    assert map is not None
    np.testing.assert_array_equal(evaluate(map, points)[:, 0], labels)


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=8))
def test_a_map_that_is_found_is_right(labels: list[int]):
    given_labels = np.array(labels, np.int64)
    map = fit(given_labels, (len(labels),), 4)
    if map is not None:
        found = evaluate(map, coordinates_of((len(labels),)))[:, 0]
        assert ((found == given_labels) | (given_labels < 0)).all()
        assert found.min() >= 0
        assert found.max() < 4


@pytest.mark.parametrize(
    ("labels", "grid"), [([0, 0, 0, 1], (2, 2)), ([0, 1, 1, 0, 1, 0, 0] * 5, (35,))]
)
def test_no_map(labels: list[int], grid: tuple[int, ...]):
    assert fit(np.array(labels, np.int64), grid, 2) is None


@pytest.mark.parametrize("labels", [[0, 1, 1, 0, 1], [0, 0, 1, 2], [0, 0, 0, 1, -1, 2, 0, 2, 1]])
def test_steps_at_any_places(labels: list[int]):
    known = np.array(labels, np.int64)
    map = fit(known, (len(labels),), 3)
    assert map is not None
    found = evaluate(map, coordinates_of((len(labels),)))[:, 0]
    assert ((found == known) | (known < 0)).all()


def test_tasks_without_a_group_may_come_anywhere():
    map = fit(np.array([0, 0, -1, 1, 2, -1], np.int64), (6,), 3)
    assert map is not None
    assert str(map) == "(d0) -> ((d0 floordiv 2))"


def test_a_first_group_that_is_cut_short():
    map = fit(np.array([0, 1, 1, 1, 2, 2, 2, 3], np.int64), (8,), 4)
    assert map is not None
    assert str(map) == "(d0) -> (((d0 + 2) floordiv 3))"
