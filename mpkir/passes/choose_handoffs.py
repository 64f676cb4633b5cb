"""choose-handoffs: activations whose elements say themselves when they are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, UnitAttr
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass

from mpkir.analysis.dependence import Touch, touches_of_buffer
from mpkir.analysis.families import Access, Family, families_of
from mpkir.analysis.slices import slices_of, take_all
from mpkir.dialects import task, tensor

READERS: dict[type[Operation], tuple[str, ...]] = {
    tensor.LinearOp: ("x", "prologue_args", "epilogue_args"),
    tensor.AttentionOp: ("q", "k", "v"),
    tensor.AttentionSplitOp: ("q", "k", "v"),
    tensor.AttentionJoinOp: ("q", "k", "v", "acc", "stats"),
    tensor.AttentionMergeOp: ("acc", "stats"),
    tensor.ArgmaxPartialOp: ("x",),
    tensor.RmsNormOp: ("x",),
    tensor.LayerNormOp: ("x",),
    tensor.SoftmaxOp: ("x",),
    tensor.ReduceOp: ("x",),
}
"""Operators whose tasks look at every element of these operands before they write the last of their
own."""

WRITERS: tuple[type[Operation], ...] = (
    tensor.LinearOp,
    tensor.AttentionOp,
    tensor.AttentionSplitOp,
    tensor.AttentionJoinOp,
    tensor.AttentionMergeOp,
    tensor.EmbeddingOp,
    tensor.RmsNormOp,
    tensor.LayerNormOp,
    tensor.SoftmaxOp,
    tensor.ReduceOp,
)
"""Operators whose tasks write every element of their boxes, each once and by itself."""

POINTWISE = (tensor.ElementwiseOp, tensor.ReshapeOp, tensor.TransposeOp, tensor.BroadcastOp)
"""Operators of which every element of an operand is in some element of the result."""

MAX_TASKS = 1 << 16
"""Families of more tasks are never looked at task by task."""

_VALUES = (tensor.FullOp, tensor.IotaOp, tensor.PositionOp, task.IndexOp)
"""Operators without operands: any tile may use them."""


@dataclass(frozen=True)
class ChooseHandoffsPass(ModulePass):
    """Flag the activations that are handed over element by element, each with the number of its
    step, instead of by an event for all that a task writes.

    A buffer qualifies if its elements are bf16, f16 or f32, each written once a step, before it is
    read, by tasks whose operators write element by element, and read by tasks whose operators look
    at all of what they read. Exchange buffers qualify like others.
    """

    name = "mpk-choose-handoffs"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        users: dict[task.BufferOp, list[tuple[Family, int]]] = {}
        for family in families_of(op):
            for number, access in enumerate(family.accesses):
                users.setdefault(access.buffer, []).append((family, number))
        for buffer, uses in users.items():
            if qualifies(buffer, uses):
                buffer.flagged = UnitAttr()


def qualifies(buffer: task.BufferOp, uses: Sequence[tuple[Family, int]]) -> bool:
    """Whether a buffer can be flagged, given all accesses to it (family, number of the operand) in
    program order.
    """
    element = task.memref_type_of(buffer.result).get_element_type()
    is_activation = buffer.kind.data is task.BufferKind.SCRATCH
    if any(family.size > MAX_TASKS for family, _ in uses):
        return False
    if not is_activation or not isinstance(element, task.FLAGGED_TYPES):
        return False
    writers = [(family, n) for family, n in uses if family.accesses[n].is_write]
    readers = [(family, n) for family, n in uses if not family.accesses[n].is_write]
    if not writers or not readers:
        return False
    if readers[0][0].number <= writers[-1][0].number:
        return False
    if not all(writes_by_element(family.op, n) for family, n in writers):
        return False
    if not all(reads_all(family.op, n) for family, n in readers):
        return False
    return _written_once(buffer, [(family, family.accesses[n]) for family, n in writers])


def _written_once(buffer: task.BufferOp, writes: Sequence[tuple[Family, Access]]) -> bool:
    """Whether these accesses together write every element of a buffer exactly once."""
    touches = touches_of_buffer(buffer, writes)
    count = np.zeros(touches[0].shape, np.int64)
    for touch in touches:
        for box in _boxes(touch):
            count[box] += 1
    return bool((count == 1).all())


def _boxes(touch: Touch) -> Iterator[tuple[slice, ...]]:
    """The boxes of all tasks, as often as they are touched."""
    slices = list(touch.slices())
    boxes: list[int] = touch.box.tolist()
    return (slices[box] for box in boxes)


def _product(op: task.GridOp) -> Operation | None:
    """The one operator of a tile that is more than a function of corresponding elements."""
    simple = (*POINTWISE, *_VALUES, tensor.RotaryOp)
    found = [each for each in op.body.block.ops if not isinstance(each, (*simple, task.YieldOp))]
    return found[0] if len(found) == 1 else None


def _is_pointwise(op: task.GridOp) -> bool:
    simple = (*POINTWISE, tensor.SliceOp, *_VALUES, task.YieldOp)
    return all(isinstance(each, simple) for each in op.body.block.ops)


def writes_by_element(op: task.GridOp, number: int) -> bool:
    """Whether the tasks of a grid write all of operand `number`, element by element."""
    if _is_pointwise(op):
        # Of several results one may be complete while another's operands are still to be read.
        return len(op.writes) == 1
    product = _product(op)
    if not isinstance(product, WRITERS):
        return False
    last = op.body.block.last_op
    assert isinstance(last, task.YieldOp)
    return _comes_from(last.operands[number - len(op.reads)], product)


def _comes_from(value: SSAValue, product: Operation) -> bool:
    """Whether a value is a product's result, or a function of its corresponding elements."""
    owner = value.owner
    if owner is product:
        # The best of several results is none of its own: it comes when all of them are there.
        return not isinstance(product, tensor.LinearOp) or value is product.result
    return isinstance(owner, POINTWISE) and any(_comes_from(v, product) for v in owner.operands)


def reads_all(op: task.GridOp, number: int) -> bool:
    """Whether the tasks of a grid look at every element of what they read as operand `number`."""
    argument = op.body.block.args[number]
    if _is_pointwise(op):
        return len(op.writes) == 1 and _reaches(argument, None)
    product = _product(op)
    return product is not None and type(product) in READERS and _reaches(argument, product)


def _reaches(value: SSAValue, product: Operation | None) -> bool:
    """Whether every element of a value goes into one of a product's operands that it looks at as a
    whole, or is yielded; or every element of slices that together are all of it.
    """
    if take_all(value) and all(_reaches(op.result, product) for op in slices_of(value)):
        return True
    for use in value.uses:
        user = use.operation
        if user is product:
            names = READERS[type(user)]
            taken = [each for name in names for each in _values(getattr(user, name))]
            if value in taken:
                return True
        elif isinstance(user, task.YieldOp):
            return True
        elif isinstance(user, POINTWISE) and any(_reaches(r, product) for r in user.results):
            return True
    return False


def _values(operand: SSAValue | Sequence[SSAValue] | None) -> Sequence[SSAValue]:
    if operand is None:
        return ()
    return (operand,) if isinstance(operand, SSAValue) else tuple(operand)
