"""The tiling rule of products whose weights are chosen at run time."""

from __future__ import annotations

from math import ceil

from xdsl.ir import SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap

from mpkir.dialects import tensor
from mpkir.dialects.task import RegionAttr
from mpkir.passes.tiling.limits import Limits, bytes_of, features_per_task
from mpkir.passes.tiling.tiling import Cut, Tiling, box, broadcast_box, whole


def expert_linear(op: tensor.ExpertLinearOp, limits: Limits) -> Tiling:
    """A grid (slot, rows of the weights), or (row, rows of the weights) where slots are summed.

    Which expert a slot has is known at run time only, so a task's box of a weight spans all of
    them; weights are constants, so that costs no dependency.
    """
    few = op.rows
    rows = op.slots if op.scales is None else few
    x_dim, result_dim = _row_dimension(op.x), _row_dimension(op.result)
    if x_dim is None or result_dim is None:
        return whole(op.operands, op.results)
    shape = tensor.shape_of(op.result)
    features, depth = shape[-1], tensor.shape_of(op.x)[-1]
    per_row = op.slots // few
    read = 1 if op.scales is None else per_row
    row_bytes = read * depth * bytes_of(op.weights[0])
    size = features_per_task(features, row_bytes, len(op.weights), limits, rows)
    cuts = {result_dim: Cut(0, 1), len(shape) - 1: Cut(1, size)}
    slots = {0: Cut(0, read)}
    x_shape = tensor.shape_of(op.x)
    if op.scales is not None:
        x_box = box(x_shape, {x_dim: Cut(0, per_row)}, 2)
    else:
        x_box = _row_of_slot(x_shape, x_dim, per_row)
    return Tiling(
        (rows, ceil(features / size)),
        (
            x_box,
            *(
                _rows_of_all(tensor.shape_of(w), first, size)
                for w, first in zip(op.weights, op.firsts, strict=True)
            ),
            *(box(tensor.shape_of(v), slots, 2) for v in (op.experts, op.scales) if v is not None),
            *(box(tensor.shape_of(v), {}, 2) for v in op.prologue_args),
            *(broadcast_box(v, shape, cuts, 2) for v in op.epilogue_args),
        ),
        (box(shape, cuts, 2),),
    )


def _row_dimension(value: SSAValue) -> int | None:
    """The dimension that counts the rows of [.., N]; None if several do."""
    shape = tensor.shape_of(value)[:-1]
    counting = [d for d, size in enumerate(shape) if size > 1]
    return None if len(counting) > 1 or not shape else (counting or [0])[0]


def _row_of_slot(shape: tuple[int, ...], dim: int, slots: int) -> RegionAttr:
    """The row that neighbouring slots share; grid dimension 0 counts slots."""
    offsets = [AffineExpr.constant(0) for _ in shape]
    if shape[dim] > 1:
        slot = AffineExpr.dimension(0)
        offsets[dim] = slot if slots == 1 else slot // slots
    sizes = [1 if d == dim else size for d, size in enumerate(shape)]
    return RegionAttr(AffineMap(2, 0, tuple(offsets)), sizes)


def _rows_of_all(shape: tuple[int, ...], first: int, size: int) -> RegionAttr:
    """So many rows of every matrix of a stack, from `first` on; grid dimension 1 counts boxes."""
    start = AffineExpr.dimension(1) * size if size > 1 else AffineExpr.dimension(1)
    zero = AffineExpr.constant(0)
    offsets = (zero, start + first if first else start, zero)
    return RegionAttr(AffineMap(2, 0, offsets), (shape[0], size, shape[2]))
