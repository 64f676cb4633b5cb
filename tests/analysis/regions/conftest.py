"""Random accesses of a buffer through views, programs of them, and the elements tasks touch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import strategies as st
from xdsl.dialects.builtin import MemRefType, bf16
from xdsl.ir import Block
from xdsl.ir.affine import AffineExpr, AffineMap

from mpkir.analysis.families import Access, Family
from mpkir.dialects.task import BufferKind, BufferOp, GridOp, RegionAttr, YieldOp, row_major

GRIDS = [(1,), (3,), (5,), (6,), (8,), (2, 3), (4, 2), (2, 1, 3), (2, 2, 2)]

SHAPES = {
    24: [(24,), (4, 6), (6, 4), (2, 12), (2, 3, 4), (1, 8, 3), (24, 1), (2, 2, 6), (3, 8), (5, 4)],
    48: [(48,), (6, 8), (8, 6), (3, 16), (12, 4), (2, 3, 8), (4, 3, 4), (2, 2, 3, 4), (47,)],
}
"""Shapes of all or of the first elements of a buffer."""


@st.composite
def views(draw: st.DrawFn, size: int) -> tuple[list[int], list[int], int]:
    """Shape, strides and offset of a view: reshaped, sliced with a step, transposed, broadcast, cut
    to a prefix.
    """
    shape = list(draw(st.sampled_from(SHAPES[size])))
    strides, offset = list(row_major(shape)), 0
    for _ in range(draw(st.integers(0, 2))):
        d = draw(st.integers(0, len(shape) - 1))
        match draw(st.sampled_from(["slice", "transpose", "broadcast"])):
            case "slice":
                begin = draw(st.integers(0, shape[d] - 1))
                step = draw(st.sampled_from([1, 1, 2, 3]))
                shape[d] = draw(st.integers(1, len(range(begin, shape[d], step))))
                offset, strides[d] = offset + begin * strides[d], strides[d] * step
            case "transpose":
                e = draw(st.integers(0, len(shape) - 1))
                shape[d], shape[e] = shape[e], shape[d]
                strides[d], strides[e] = strides[e], strides[d]
            case "broadcast" if len(shape) < 4:
                shape.insert(d, draw(st.integers(1, 3)))
                strides.insert(d, 0)
            case _:
                pass
    return shape, strides, offset


@st.composite
def digits(draw: st.DrawFn, grid: tuple[int, ...]) -> list[tuple[AffineExpr, int]]:
    """The coordinates of a grid, some of them cut in two, in any order, with their numbers of
    values.
    """
    result: list[tuple[AffineExpr, int]] = []
    for dim, length in enumerate(grid):
        d = AffineExpr.dimension(dim)
        low = draw(st.sampled_from([n for n in range(1, length + 1) if length % n == 0]))
        if low in (1, length) or draw(st.booleans()):
            result.append((d, length))
        else:
            result += [(d // low, length // low), (d % low, low)]
    return draw(st.permutations(result))


@st.composite
def tilings(draw: st.DrawFn, shape: list[int], grid: tuple[int, ...]) -> RegionAttr:
    """Boxes of which every dimension depends on digits of its own, most of them tilings."""
    rest = list(draw(digits(grid)))
    offsets: list[AffineExpr] = []
    sizes: list[int] = []
    for length in shape:
        offset: AffineExpr = AffineExpr.constant(0)
        count = 1
        for _ in range(min(len(rest), draw(st.sampled_from([0, 1, 1, 1, 2])))):
            digit, values = rest.pop()
            offset, count = offset * values + digit, count * values
        size = -(-length // count) + draw(st.sampled_from([0, 0, 0, 1]))
        size = draw(st.sampled_from([size, size, size, draw(st.integers(1, length))]))
        step = draw(st.sampled_from([size, size, size, draw(st.integers(1, length))]))
        offsets.append(offset * step + draw(st.sampled_from([0, 0, 0, -1, 1, 2])))
        sizes.append(size)
    return RegionAttr(AffineMap(len(grid), 0, tuple(offsets)), sizes)


@st.composite
def wild(draw: st.DrawFn, shape: list[int], grid: tuple[int, ...]) -> RegionAttr:
    """Boxes of any sizes and offsets, several of which may depend on one coordinate."""
    offsets: list[AffineExpr] = []
    sizes: list[int] = []
    for length in shape:
        size = draw(st.integers(1, length))
        d = AffineExpr.dimension(draw(st.integers(0, len(grid) - 1)))
        shift = draw(st.integers(-1, length - 1))
        choices = [AffineExpr.constant(0), d * size, d + shift, d // 2 * size, d % 2 * size]
        choices += [(d * 3) % 4, (d + 1) // 2 * size, d * -1 + shift]
        offsets.append(draw(st.sampled_from(choices)))
        sizes.append(size)
    return RegionAttr(AffineMap(len(grid), 0, tuple(offsets)), sizes)


def buffer_of_size(size: int) -> BufferOp:
    """A flat buffer."""
    return BufferOp(BufferKind.STATE, "b", MemRefType(bf16, [size]))


@st.composite
def random_accesses(
    draw: st.DrawFn, size: int = 24, buffer: BufferOp | None = None, grid: tuple[int, ...] = ()
) -> tuple[Access, tuple[int, ...]]:
    """An access of a buffer of 24 or 48 elements, and its grid."""
    shape, strides, offset = draw(views(size))
    grid = grid or draw(st.sampled_from(GRIDS))
    region = draw(tilings(shape, grid) | tilings(shape, grid) | wild(shape, grid))
    buffer = buffer or buffer_of_size(size)
    is_write = draw(st.booleans())
    return Access(buffer, tuple(shape), tuple(strides), offset, region, is_write), grid


@st.composite
def programs(draw: st.DrawFn) -> tuple[Family, ...]:
    """Two to five families that touch two buffers in any way."""
    buffers = [buffer_of_size(24), buffer_of_size(24)]
    result: list[Family] = []
    for number in range(draw(st.integers(2, 5))):
        grid = draw(st.sampled_from(GRIDS))
        touched = draw(st.lists(st.sampled_from([0, 1]), min_size=1, max_size=3))
        accesses = tuple(draw(random_accesses(24, buffers[b], grid))[0] for b in touched)
        op = GridOp(f"f{number}", grid, [], [], [], Block([YieldOp()]))
        result.append(Family(number, op, accesses))
    return tuple(result)


def elements_of_tasks(access: Access, grid: tuple[int, ...]) -> list[set[int]]:
    """The flat elements that each task touches."""
    result: list[set[int]] = []
    for coordinates in product(*map(range, grid)):
        low = access.box.offsets_at(coordinates)
        ranges = [
            range(max(begin, 0), min(begin + size, length))
            for begin, size, length in zip(low, access.box.shape, access.shape, strict=True)
        ]
        result.append(
            {
                access.offset + sum(i * s for i, s in zip(index, access.strides, strict=True))
                for index in product(*ranges)
            }
        )
    return result


@pytest.fixture(scope="session")
def accesses() -> Callable[..., st.SearchStrategy[tuple[Access, tuple[int, ...]]]]:
    """The strategy of random accesses, by the buffer's size."""
    return random_accesses


@pytest.fixture(scope="session")
def families() -> Callable[[], st.SearchStrategy[tuple[Family, ...]]]:
    """The strategy of random programs."""
    return programs


@pytest.fixture(scope="session")
def elements() -> Callable[[Access, tuple[int, ...]], list[set[int]]]:
    """The oracle: the elements of each task of an access."""
    return elements_of_tasks
