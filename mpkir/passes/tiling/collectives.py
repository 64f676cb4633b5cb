"""Collectives as tasks: what is sent goes into an exchange buffer, a row for each rank, and whoever
reads it finds the rows of all ranks in its own memory.

So a gathered value is a view, and a sum over ranks one more operator on elements, which adds rows
in the order of ranks: the same bits everywhere. Neither needs tasks to send: the operator that
makes the value writes it through `mpk_task.mine`, tile by tile, or, if of a sum each rank wants its
part only, through `mpk_task.scatter`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from xdsl.dialects import arith
from xdsl.dialects.builtin import BFloat16Type, Float16Type, TensorType, f32
from xdsl.ir import Block, SSAValue

from mpkir.dialects import tensor
from mpkir.dialects.task import BufferOp, memref_type_of, row_elements
from mpkir.passes.scalar_regions import inline_scalars
from mpkir.passes.tiling.layouts import VIEWS, Layout, through
from mpkir.passes.tiling.limits import Limits
from mpkir.passes.tiling.tiling import Cut, Tiling, box, broadcast_box

Collective = tensor.AllReduceOp | tensor.AllGatherOp

FEWEST_COLUMNS = 32
"""A task of a sum over ranks takes so many columns or more: what it waits for is a hop, not bytes,
so that as many workers as can be take part."""


def is_only_sent(value: SSAValue, layout: Layout | None = None) -> bool:
    """Whether nobody but collectives reads a value, directly or as another view: then it need not
    lie anywhere else. `layout`: where it lies in a row, if that is not dense.
    """
    layout = layout or Layout.dense(tensor.shape_of(value))
    for use in value.uses:
        user = use.operation
        if isinstance(user, VIEWS):
            other = through(user, layout)
            if other is None or not is_only_sent(user.result, other):
                return False
        elif not isinstance(user, Collective) or user.x is not value:
            return False
    return bool(value.uses)


def scatter_for(value: SSAValue) -> tensor.ReduceScatterOp | None:
    """The operator that alone reads a value, to scatter it: then it need not lie anywhere else."""
    users = [use.operation for use in value.uses]
    only = users[0] if len(users) == 1 else None
    return only if isinstance(only, tensor.ReduceScatterOp) else None


def rows_of(buffer: BufferOp, own: Layout, of: int) -> list[Layout]:
    """Where a value is that lies in each row like `own` in the own rank's: once for each of `of`
    different ones. Neighbouring ranks have the same where there are fewer than ranks.
    """
    ranks, row = memref_type_of(buffer.result).get_shape()[0], row_elements(buffer)
    return [
        Layout(own.shape, own.strides, own.offset + rank * row)
        for rank in range(0, ranks, ranks // of)
    ]


def gathered(rows: Sequence[Layout], dim: int) -> Layout:
    """All rows in one; dimension `dim` of it, a new one, says which row: [.., rows, size, ..]."""
    first = rows[0]
    between = rows[1].offset - first.offset
    shape, strides = (len(rows), *first.shape), (between, *first.strides)
    own = range(1, 1 + len(first.shape))
    return Layout(shape, strides, first.offset).transposed([*own[:dim], 0, *own[dim:]])


def sum_of(
    op: tensor.AllReduceOp | tensor.ReduceScatterOp, rows: Sequence[SSAValue]
) -> tensor.ElementwiseOp:
    """The operator that adds rows of all ranks, one after another in fp32, then does what a
    collective does with the sum.
    """
    element = tensor.element_type_of(op.result)
    epilogue, epilogue_args = None, ()
    if isinstance(op, tensor.AllReduceOp):
        epilogue, epilogue_args = op.epilogue, op.epilogue_args
    extra = [tensor.element_type_of(value) for value in epilogue_args]
    block = Block(arg_types=[*[f32] * len(rows), *extra])
    total: SSAValue = block.args[0]
    for row in block.args[1 : len(rows)]:
        block.add_op(add := arith.AddfOp(total, row))
        total = add.result
    if epilogue is not None:
        total = inline_scalars(epilogue.block, [total, *block.args[len(rows) :]], block)
    elif isinstance(element, BFloat16Type | Float16Type):
        block.add_op(round_ := arith.TruncFOp(total, element))
        total = round_.result
    block.add_op(tensor.YieldOp(total))
    return tensor.ElementwiseOp([*rows, *epilogue_args], block, op.result.type)


def identity(value: SSAValue) -> tensor.ElementwiseOp:
    """The operator that copies a value."""
    block = Block(arg_types=[tensor.element_type_of(value)])
    block.add_op(tensor.YieldOp(block.args[0]))
    return tensor.ElementwiseOp([value], block, value.type)


def spread_thin(op: tensor.ElementwiseOp, limits: Limits) -> Tiling:
    """Tasks for as many workers as can be, of a few columns of all rows."""
    shape = tensor.shape_of(op.result)
    dim = max(range(len(shape)), key=lambda d: (shape[d], d))
    size = max(FEWEST_COLUMNS, ceil(shape[dim] / limits.workers))
    size = min(shape[dim], ceil(size / 8) * 8)
    cut = {dim: Cut(0, size)}
    return Tiling(
        (ceil(shape[dim] / size),),
        tuple(broadcast_box(v, shape, cut, 1) for v in op.inputs),
        (box(shape, cut, 1),),
    )


def stand_ins(element_of: SSAValue, shape: Sequence[int], count: int) -> Sequence[SSAValue]:
    """Values of this shape that no operator makes, for what lies in rows."""
    type = TensorType(tensor.element_type_of(element_of), shape)
    return Block(arg_types=[type] * count).args


def stand_in(element_of: SSAValue, shape: Sequence[int]) -> SSAValue:
    """One value of this shape that no operator makes."""
    (value,) = stand_ins(element_of, shape, 1)
    return value
