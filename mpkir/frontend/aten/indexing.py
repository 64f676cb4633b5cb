"""Elements and rows chosen by tensors of indices."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from xdsl.dialects.builtin import TensorType, i64
from xdsl.ir import Block, Region, SSAValue

from mpkir.dialects import tensor
from mpkir.dialects.tensor import ReductionKind, element_type_of, shape_of
from mpkir.frontend.aten.creation import fill, uniform
from mpkir.frontend.aten.registry import Lowering, register_lowering
from mpkir.frontend.aten.scalars import Scalars, arithmetic_type

aten = torch.ops.aten


@register_lowering(aten.index_select.default)
def index_select(low: Lowering, x: SSAValue, dim: int, index: SSAValue) -> SSAValue:
    rank = len(shape_of(x))
    dim %= max(rank, 1)
    if dim:
        order = [dim, *(d for d in range(rank) if d != dim)]
        rows = _rows(low, low.emit(tensor.TransposeOp(x, order)), index)
        return low.emit(tensor.TransposeOp(rows, [order.index(d) for d in range(rank)]))
    return low.reshape(_rows(low, x, index), low.shape)


def _rows(low: Lowering, x: SSAValue, index: SSAValue) -> SSAValue:
    """x[index] along the first dimension."""
    count, *rest = shape_of(x)
    rows = low.reshape(x, (count, prod(rest)))
    return low.reshape(low.emit(tensor.EmbeddingOp(rows, index)), (*shape_of(index), *rest))


@register_lowering(aten.index.Tensor)
def index_tensor(low: Lowering, x: SSAValue, indices: Sequence[SSAValue | None]) -> SSAValue:
    if (number := uniform(x)) is not None:
        return fill(low, number)
    given = [dim for dim, index in enumerate(indices) if index is not None]
    if len(given) != 1:
        low.fail("indexes with several tensors")
    (dim,) = given
    index = indices[dim]
    assert index is not None
    if (number := uniform(index)) is not None:
        # Perhaps counted from the end.
        row = low.emit(tensor.SliceOp(x, dim, int(number) % shape_of(x)[dim], 1))
        row = low.reshape(row, low.shape) if prod(shape_of(index)) == 1 else row
        return row if shape_of(row) == low.shape else low.emit(tensor.BroadcastOp(row, low.shape))
    if dim and len(shape_of(index)) != 1:
        low.fail("indexes another dimension than the first with more than a vector")
    return index_select(low, x, dim, index)


@register_lowering(aten.gather.default)
def gather(
    low: Lowering, x: SSAValue, dim: int, index: SSAValue, sparse_grad: bool = False
) -> SSAValue:
    """y[i, .., k] = x[i, .., index[i, .., k], ..], elements of a table with rows of one element."""
    shape, taken = shape_of(x), shape_of(index)
    dim %= len(shape)
    strides = [prod(shape[d + 1 :]) for d in range(len(shape))]
    place = index if strides[dim] == 1 else _sum(low, index, strides[dim])
    for d, size in enumerate(taken):
        if d != dim and size != 1:
            beside = low.emit(tensor.IotaOp(TensorType(i64, [size]), 0, strides[d]))
            unit = [size if e == d else 1 for e in range(len(taken))]
            place = _sum(low, place, 1, low.reshape(beside, unit))
    table = low.reshape(x, (prod(shape), 1))
    return low.reshape(low.emit(tensor.EmbeddingOp(table, place)), low.shape)


def _sum(low: Lowering, value: SSAValue, factor: int, other: SSAValue | None = None) -> SSAValue:
    """value * factor + other, of integers."""
    operands = [value] if other is None else [value, other]
    block = Block(arg_types=[i64 for _ in operands])
    s = Scalars(block)
    result = s.mul(block.args[0], s.constant(factor, i64))
    if other is not None:
        result = s.add(result, block.args[1])
    block.add_op(tensor.YieldOp(result))
    type = TensorType(i64, shape_of(value))
    return low.emit(tensor.ElementwiseOp(operands, Region(block), type))


@register_lowering(aten.scatter.value)
def scatter_value(low: Lowering, x: SSAValue, dim: int, index: SSAValue, value: float) -> SSAValue:
    """`value` where one of the indices is, x elsewhere; along the last dimension."""
    *lead, size = shape_of(x)
    if dim % len(shape_of(x)) != len(lead) or list(shape_of(index)[:-1]) != lead:
        low.fail("writes along another dimension than the last")
    count = shape_of(index)[-1]
    chosen = low.reshape(index, (*lead, count, 1))
    places = low.emit(tensor.IotaOp(TensorType(i64, [size]), 0, 1))
    compute = arithmetic_type(element_type_of(x))
    block = Block(arg_types=[i64, i64])
    s = Scalars(block)
    hit = s.select(s.compare("eq", *block.args), s.constant(1.0, compute), s.constant(0.0, compute))
    block.add_op(tensor.YieldOp(hit))
    hits = low.emit(
        tensor.ElementwiseOp(
            [chosen, places], Region(block), TensorType(compute, [*lead, count, size])
        )
    )
    any_hit = low.emit(tensor.ReduceOp(ReductionKind.MAX, hits, [len(lead)]))
    any_hit = low.reshape(any_hit, shape_of(x))

    def body(s: Scalars, a: SSAValue, b: SSAValue) -> SSAValue:
        return s.select(s.order("gt", b, s.constant(0, b.type)), s.constant(value, a.type), a)

    return low.pointwise([x, any_hit], body)
