"""Boxes against sets of elements."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.dialects.builtin import MemRefType, bf16
from xdsl.ir.affine import AffineExpr, AffineMap

from mpkir.analysis.families import Access, coordinates_of, evaluate
from mpkir.analysis.regions import Boxes, boxes_of, common_shape, distinct, overlapping, refine
from mpkir.dialects.task import BufferKind, BufferOp, RegionAttr

SHAPES = [(24,), (4, 6), (6, 4), (2, 12), (2, 3, 4), (1, 8, 3), (24, 1), (2, 2, 6), (3, 8)]


@st.composite
def accesses(draw: st.DrawFn) -> tuple[Access, tuple[int, ...]]:
    """A random access of a buffer of 24 elements, and its grid."""
    shape = draw(st.sampled_from(SHAPES))
    grid = draw(st.sampled_from([(1,), (3,), (5,), (2, 3)]))
    dims = [AffineExpr.dimension(d) for d in range(len(grid))]
    offsets, sizes = [], []
    for length in shape:
        size = draw(st.integers(1, length))
        kind = draw(st.sampled_from(["zero", "tile", "shift", "floordiv", "mod"]))
        d = draw(st.sampled_from(dims))
        expression = {
            "zero": AffineExpr.constant(0),
            "tile": d * size,
            "shift": d + draw(st.integers(0, length - 1)),
            "floordiv": d // 2 * size,
            "mod": d % 2 * size,
        }[kind]
        offsets.append(expression)
        sizes.append(size)
    buffer = BufferOp(BufferKind.STATE, "b", MemRefType(bf16, [24]))
    region = RegionAttr(AffineMap(len(grid), 0, tuple(offsets)), sizes)
    return Access(buffer, shape, region, False), grid


def elements(access: Access, grid: tuple[int, ...]) -> list[set[int]]:
    """The flat elements that each task touches."""
    result = []
    for coordinates in product(*map(range, grid)):
        low = access.box.offsets_at(coordinates)
        ranges = [
            range(begin, min(begin + size, length))
            for begin, size, length in zip(low, access.box.shape, access.shape, strict=True)
        ]
        result.append({int(np.ravel_multi_index(i, access.shape)) for i in product(*ranges)})
    return result


def elements_of(boxes: Boxes, shape: tuple[int, ...], tasks: int) -> list[set[int]]:
    """The flat elements of each task's boxes; no element comes twice."""
    result: list[set[int]] = [set() for _ in range(tasks)]
    for task, low, high in zip(boxes.tasks, boxes.low, boxes.high, strict=True):
        for index in product(*map(range, low, high)):
            flat = int(np.ravel_multi_index(index, shape))
            assert flat not in result[task]
            result[task].add(flat)
    return result


@given(accesses(), st.lists(st.sampled_from(SHAPES), max_size=2))
def test_refined_boxes_hold_the_same_elements(
    access_and_grid: tuple[Access, tuple[int, ...]], others: list[tuple[int, ...]]
):
    access, grid = access_and_grid
    target = common_shape([access.shape, *others])
    boxes = refine(boxes_of(access, coordinates_of(grid)), access.shape, target)
    assert elements_of(boxes, target, prod(grid)) == elements(access, grid)


@given(accesses(), accesses())
def test_overlap_is_a_common_element(
    one: tuple[Access, tuple[int, ...]], other: tuple[Access, tuple[int, ...]]
):
    target = common_shape([one[0].shape, other[0].shape])
    boxes = [
        refine(boxes_of(access, coordinates_of(grid)), access.shape, target)
        for access, grid in (one, other)
    ]
    (low_a, high_a, row_a), (low_b, high_b, row_b) = map(distinct, boxes)
    found = {
        (int(boxes[0].tasks[i]), int(boxes[1].tasks[j]))
        for a, b in zip(*overlapping(low_a, high_a, low_b, high_b), strict=True)
        for i in np.flatnonzero(row_a == a)
        for j in np.flatnonzero(row_b == b)
    }
    sets = elements(*one), elements(*other)
    wanted = {(i, j) for i, x in enumerate(sets[0]) for j, y in enumerate(sets[1]) if x & y}
    assert found == wanted


@pytest.mark.parametrize(
    ("shapes", "common"),
    [
        ([(1, 64), (1, 4, 16)], (4, 16)),
        ([(9, 64), (576,), (3, 192)], (3, 3, 64)),
        ([(6, 4), (4, 6)], (24,)),
        ([(1,), (1, 1)], (1,)),
    ],
)
def test_common_shape(shapes: list[tuple[int, ...]], common: tuple[int, ...]):
    assert common_shape(shapes) == common


def test_affine_maps_of_many_points():
    d0, d1 = AffineExpr.dimension(0), AffineExpr.dimension(1)
    map = AffineMap(2, 0, (d0 * 3 + d1, d0 // 2, (d1 + 1) % 2, d1.ceil_div(2)))
    points = coordinates_of((4, 3))
    expected = [map.eval([int(c) for c in point], []) for point in points]
    np.testing.assert_array_equal(evaluate(map, points), expected)
