"""Until when the values of a step are read, and which state each may be built up in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xdsl.ir import Block, Operation, SSAValue

from mpkir.dialects import tensor

IN_PLACE: Mapping[type[Operation], Mapping[int, str]] = {
    tensor.AttentionOp: {1: "k_cache", 2: "v_cache"},
    tensor.AttentionSplitOp: {2: "k_cache", 3: "v_cache"},
    tensor.AttentionJoinOp: {1: "k_cache", 2: "v_cache"},
    tensor.CacheAppendOp: {0: "cache"},
    tensor.SequenceAppendOp: {0: "sequence"},
    tensor.ArgmaxMergeOp: {1: "sequence"},
}
"""Results that are an operand with a few elements replaced, and so stay in its buffer: result index
-> operand."""


@dataclass(frozen=True)
class Lifetimes:
    """Facts about one step at tensor level."""

    order: Mapping[Operation, int]
    last_read: Mapping[SSAValue, int]
    homes: Mapping[SSAValue, frozenset[str]]

    @classmethod
    def of(cls, block: Block) -> Lifetimes:
        order = {op: index for index, op in enumerate(block.ops)}
        last_read: dict[SSAValue, int] = {}
        homes: dict[SSAValue, frozenset[str]] = {}
        for op, index in order.items():
            for operand in op.operands:
                last_read[operand] = index
        for op in order:
            if isinstance(op, tensor.StoreStateOp):
                value: SSAValue | None = op.value
                while value is not None:
                    homes[value] = homes.get(value, frozenset()) | {op.sym.data}
                    value = _updated(value)
        return cls(order, last_read, homes)

    def is_read_after(self, value: SSAValue, op: Operation) -> bool:
        """Whether an operator behind `op` reads the value."""
        return self.last_read.get(value, -1) > self.order[op]

    def is_at_home(self, value: SSAValue, state: str) -> bool:
        """Whether the value is what the state holds in the end, or on the way to it."""
        return state in self.homes.get(value, ())


def _updated(value: SSAValue) -> SSAValue | None:
    """The value of which this one is an update in place or another view."""
    op = value.owner
    if isinstance(op, tensor.ReshapeOp):
        return op.source
    if not isinstance(op, Operation):
        return None
    in_place = IN_PLACE.get(type(op), {})
    name = next(
        (in_place[i] for i, r in enumerate(op.results) if r is value and i in in_place), None
    )
    return None if name is None else getattr(op, name)
