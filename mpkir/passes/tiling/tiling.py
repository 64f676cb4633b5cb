"""What a tiling rule gives: a grid, and for each operand and result of an operator the box that one
task touches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from xdsl.ir import SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap

from mpkir.dialects import tensor
from mpkir.dialects.task import RegionAttr


@dataclass(frozen=True)
class Cut:
    """Along one dimension a task takes `size` elements, from start + coordinate * stride in grid
    dimension `axis`.
    """

    axis: int
    size: int
    stride: int | None = None
    """Distance of neighbouring boxes; `size` if not given, 0 if all tasks take the same."""
    start: int = 0


@dataclass(frozen=True)
class Tiling:
    """How an operator becomes a family of tasks."""

    grid: tuple[int, ...]
    operands: tuple[RegionAttr, ...]
    """The box of each operand, in the operator's order."""
    results: tuple[RegionAttr, ...]
    origin: int | None = None
    """The grid dimension whose coordinate the operator's tile form takes as `origin`."""


def box(shape: Sequence[int], cuts: Mapping[int, Cut], grid_rank: int) -> RegionAttr:
    """The box of a tensor: cut along the given dimensions, whole along the others."""
    return _box(tuple(shape), tuple(cuts.get(dim) for dim in range(len(shape))), grid_rank)


@cache
def _box(shape: tuple[int, ...], cuts: tuple[Cut | None, ...], grid_rank: int) -> RegionAttr:
    # Layers repeat: one attribute serves them all, and is verified once.
    offsets: list[AffineExpr] = []
    sizes: list[int] = []
    for size, cut in zip(shape, cuts, strict=True):
        if cut is None:
            offsets.append(AffineExpr.constant(0))
            sizes.append(size)
            continue
        stride = cut.size if cut.stride is None else cut.stride
        offset = AffineExpr.dimension(cut.axis)
        if stride == 0:
            offset = AffineExpr.constant(cut.start)
        else:
            offset = offset * stride if stride != 1 else offset
            offset = offset + cut.start if cut.start else offset
        offsets.append(offset)
        sizes.append(cut.size)
    return RegionAttr(AffineMap(grid_rank, 0, tuple(offsets)), sizes)


def broadcast_box(
    value: SSAValue, shape: Sequence[int], cuts: Mapping[int, Cut], grid_rank: int
) -> RegionAttr:
    """The box of an operand that broadcasts to `shape`, where the result is cut by `cuts`."""
    own = tensor.shape_of(value)
    shift = len(shape) - len(own)
    mine = {dim - shift: cut for dim, cut in cuts.items() if dim >= shift and own[dim - shift] != 1}
    return box(own, mine, grid_rank)


def whole(operands: Sequence[SSAValue], results: Sequence[SSAValue]) -> Tiling:
    """One task that does everything."""
    return Tiling(
        (1,),
        tuple(RegionAttr.whole(tensor.shape_of(v), 1) for v in operands),
        tuple(RegionAttr.whole(tensor.shape_of(v), 1) for v in results),
    )
