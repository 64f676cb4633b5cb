"""What is known about a task only while the program runs."""

from __future__ import annotations

from xdsl.dialects.builtin import IntegerType

from mpkir.analysis.families import Family
from mpkir.dialects import task, tensor


def duration_depends_on_data(family: Family) -> bool:
    """Whether how long a task takes may depend on numbers that only a run knows.

    So it is where the body reads the position (attention over as much of a cache as is filled) or
    integers that the program writes (an index that chooses rows). It may say so of a task that
    does the same work for every such number, but of no other misses one.
    """
    for op in family.op.body.walk():
        if not isinstance(op, tensor.PositionOp):
            continue
        # A merge asks how many parts there are, but takes them all at once.
        if any(not isinstance(use.operation, tensor.AttentionMergeOp) for use in op.result.uses):
            return True
    return any(
        isinstance(task.memref_type_of(access.buffer.result).get_element_type(), IntegerType)
        and access.buffer.kind.data is not task.BufferKind.WEIGHT
        for access in family.accesses
        if not access.is_write
    )
