"""Regions of scalar arithmetic put together: one behind another, roundings between them dropped."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects import arith
from xdsl.ir import Block, SSAValue

from mpkir.dialects import tensor


def inline_scalars(source: Block, arguments: Sequence[SSAValue], into: Block) -> SSAValue:
    """Clone a region of scalar arithmetic to the end of another block; its yielded value there."""
    mapper: dict[SSAValue, SSAValue] = dict(zip(source.args, arguments, strict=True))
    last = source.last_op
    assert isinstance(last, tensor.YieldOp)
    for op in source.ops:
        if op is not last:
            into.add_op(op.clone(mapper))
    return mapper.get(last.arguments[0], last.arguments[0])


def drop_roundings(block: Block) -> None:
    """Replace `extf(truncf(x))` by x where x has the outer type: inside a fused region values keep
    their precision. Roundings that nothing reads go.
    """
    for op in tuple(block.ops):
        if not isinstance(op, arith.ExtFOp):
            continue
        inner = op.input.owner
        if isinstance(inner, arith.TruncFOp) and inner.input.type == op.result.type:
            op.result.replace_all_uses_with(inner.input)
            block.erase_op(op)
    for op in reversed(tuple(block.ops)):
        if isinstance(op, arith.TruncFOp) and op.result.first_use is None:
            block.erase_op(op)
