"""Tiles that are taken apart: which elements of a value its readers look at."""

from __future__ import annotations

from xdsl.ir import SSAValue

from mpkir.dialects import tensor


def slices_of(value: SSAValue) -> list[tensor.SliceOp]:
    """The slices of a value that some operator reads."""
    users = (use.operation for use in value.uses)
    return [op for op in users if isinstance(op, tensor.SliceOp) and op.result.uses]


def take_all(value: SSAValue) -> bool:
    """Whether the slices of a value that are read, all along one dimension, together are all of
    it."""
    slices = slices_of(value)
    dims = {op.dim.value.data for op in slices}
    if len(dims) != 1:
        return False
    (dim,) = dims
    taken: set[int] = set()
    for op in slices:
        start, step = op.start.value.data, op.step.value.data
        count = tensor.shape_of(op.result)[dim]
        taken.update(range(start, start + count * step, step))
    return len(taken) == tensor.shape_of(value)[dim]
