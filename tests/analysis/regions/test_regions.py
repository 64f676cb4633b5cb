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
from mpkir.dialects.task import BufferKind, BufferOp, RegionAttr, row_major


def elements_of(boxes: Boxes, shape: tuple[int, ...], tasks: int) -> list[set[int]]:
    """The flat elements of each task's boxes; no element comes twice."""
    result: list[set[int]] = [set() for _ in range(tasks)]
    for task, low, high in zip(boxes.tasks, boxes.low, boxes.high, strict=True):
        for index in product(*map(range, low, high)):
            flat = int(np.ravel_multi_index(index, shape))
            assert flat not in result[task]
            result[task].add(flat)
    return result


@given(st.data())
def test_refined_boxes_hold_the_same_elements(accesses, elements, data: st.DataObject):
    access, grid = data.draw(accesses())
    others = data.draw(st.lists(accesses(), max_size=2))
    target = common_shape([access, *(other for other, _ in others)], 24)
    boxes = refine(boxes_of(access, coordinates_of(grid)), access, target)
    assert elements_of(boxes, target, prod(grid)) == elements(access, grid)


@given(st.data())
def test_overlap_is_a_common_element(accesses, elements, data: st.DataObject):
    one, other = data.draw(accesses()), data.draw(accesses())
    target = common_shape([one[0], other[0]], 24)
    boxes = [
        refine(boxes_of(access, coordinates_of(grid)), access, target)
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


def view(shape: tuple[int, ...], strides: tuple[int, ...] | None = None, offset: int = 0):
    """An access of everything in a view."""
    buffer = BufferOp(BufferKind.STATE, "b", MemRefType(bf16, [4096]))
    whole = RegionAttr.whole(shape, 1)
    return Access(buffer, shape, strides or row_major(shape), offset, whole, False)


@pytest.mark.parametrize(
    ("seen", "size", "common"),
    [
        ([view((1, 64)), view((1, 4, 16))], 64, (4, 16)),
        ([view((9, 64)), view((576,)), view((3, 192))], 576, (3, 3, 64)),
        ([view((6, 4)), view((4, 6))], 24, (24,)),
        ([view((1,)), view((1, 1))], 1, (1,)),
        # A transpose, a column, every third, a prefix.
        ([view((8, 4)), view((4, 8), (1, 4))], 32, (8, 4)),
        ([view((32,)), view((8,), (4,), 3)], 32, (8, 4)),
        ([view((12,)), view((4,), (3,), 1)], 12, (4, 3)),
        ([view((3, 5))], 24, (5, 5)),
        # A slice whose rows reach from one row of the others into the next.
        ([view((8, 8)), view((2, 8), (8, 1), 4)], 64, (64,)),
    ],
)
def test_common_shape(seen: list[Access], size: int, common: tuple[int, ...]):
    assert common_shape(seen, size) == common


def test_affine_maps_of_many_points():
    d0, d1 = AffineExpr.dimension(0), AffineExpr.dimension(1)
    map = AffineMap(2, 0, (d0 * 3 + d1, d0 // 2, (d1 + 1) % 2, d1.ceil_div(2)))
    points = coordinates_of((4, 3))
    expected = [map.eval([int(c) for c in point], []) for point in points]
    np.testing.assert_array_equal(evaluate(map, points), expected)
