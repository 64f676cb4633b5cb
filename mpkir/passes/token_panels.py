"""Which flagged buffers of many tokens lie in panels: products poll them by 8 tokens of a block of
columns at once, from where they were written to straight into registers (packed_columns.cuh).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TypeAlias

from xdsl.dialects.builtin import FixedBitwidthType
from xdsl.ir import BlockArgument

from mpkir.analysis.families import Access, Family
from mpkir.dialects import task, tensor
from mpkir.passes.pipeline_tasks import packable_reads

Uses: TypeAlias = Sequence[tuple[Family, Access]]

_OF_ALL, _OF_FEW = 8, 32
"""Columns of a panel where tasks write theirs of all tokens, and where they write few tokens, whose
neighbours then lie together."""
_WORD_BITS = 32


def panels_of(buffers: Mapping[task.BufferOp, Uses]) -> dict[task.BufferOp, task.PanelsAttr]:
    """How buffers lie that do so in panels, of those whose readers look at everything. Those of a
    type and as many columns lie alike, so that who reads them shares code.
    """
    columns: dict[task.BufferOp, int] = {}
    for buffer, uses in buffers.items():
        found = _columns(buffer, uses)
        if found is not None:
            columns[buffer] = found
    groups = {
        buffer: _OF_ALL if _writes_all_tokens(buffer, each, buffers[buffer]) else _OF_FEW
        for buffer, each in columns.items()
    }
    kinds = {buffer: (buffer.result.type, each) for buffer, each in columns.items()}
    return {
        buffer: task.PanelsAttr(min(groups[o] for o in columns if kinds[o] == kinds[buffer]), each)
        for buffer, each in columns.items()
    }


def _columns(buffer: task.BufferOp, uses: Uses) -> int | None:
    """Elements of a token, by the products that poll a buffer straight; None if there are none, or
    others beside those and readers of single elements."""
    depths: set[int] = set()
    for family, access in uses:
        if access.is_write:
            continue
        linears = [op for op in family.op.body.block.ops if isinstance(op, tensor.LinearOp)]
        if not linears:
            continue
        value = family.op.body.block.args[_number(family, access)]
        if _is_added(value):
            continue
        depth = _depth(family, access, linears[0], value)
        if depth is None:
            return None
        depths.add(depth)
    if len(depths) != 1:
        return None
    (depth,) = depths
    type = task.memref_type_of(buffer.result)
    size, element = prod(type.get_shape()), type.get_element_type()
    assert isinstance(element, FixedBitwidthType)
    word = element.bitwidth * (1 if buffer.brief is not None else 2)
    whole = size % depth == 0 and depth % task.PACKED_COLUMNS == 0
    fits = whole and word <= _WORD_BITS and size // depth > task.FEW_TOKENS
    return depth if fits else None


def _number(family: Family, access: Access) -> int:
    return next(i for i, each in enumerate(family.accesses) if each is access)


def _is_added(value: BlockArgument) -> bool:
    """Whether a product only takes a value to finish its sums, element by element."""
    return all(
        isinstance(use.operation, tensor.LinearOp)
        and value in use.operation.epilogue_args
        and value not in (use.operation.x, *use.operation.prologue_args)
        for use in value.uses
    )


def _depth(
    family: Family, access: Access, linear: tensor.LinearOp, value: BlockArgument
) -> int | None:
    """Columns of x if a task polls it whole and straight, as it is but for a norm; else None."""
    *_, depth = tensor.shape_of(linear.x)
    *rows, columns = access.box.shape
    whole = columns == access.shape[-1] == depth and access.offset % depth == 0
    dense = zip(access.shape, access.strides, task.row_major(access.shape), strict=True)
    by_tokens = all(stride == wanted for size, stride, wanted in dense if size > 1)
    prologue = () if linear.prologue is None else tuple(linear.prologue.block.ops)
    as_it_is = all(isinstance(op, tensor.RmsNormOp | tensor.YieldOp) for op in prologue)
    polls = linear.x is value and value not in linear.prologue_args and bool(packable_reads(family))
    straight = prod(rows) > task.FEW_TOKENS
    return depth if whole and by_tokens and as_it_is and polls and straight else None


def _writes_all_tokens(buffer: task.BufferOp, columns: int, uses: Uses) -> bool:
    """Whether tasks write all tokens of the columns that they write."""
    tokens = prod(task.memref_type_of(buffer.result).get_shape()) // columns
    return all(
        prod(
            size
            for size, stride in zip(access.box.shape, access.strides, strict=True)
            if stride % columns == 0
        )
        == tokens
        for _, access in uses
        if access.is_write
    )
