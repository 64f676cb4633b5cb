"""The shared-memory ring: every stage that is loaded is used once, in the order of loading.

A worker's loader walks the worker's list and loads, for each task that streams, its stages: operand
after operand in the order of the family's `stream`, each a number of whole rows or an equal part of
one, until the task's box is covered. It waits for nothing but a free slot. The task takes stages in
the same order, weight after weight of its linear, and gives each back before it takes the next.

Then no slot is waited for in vain. Stage n is loaded when stage n - slots has been given back: one
of the same task, or of a task that stands earlier in the same list, and is given back when that has
run. So the ring adds to the order of tasks only edges from earlier to later places of a list, which
the list has anyway, and closes no circle. What that rests on is checked here: no dynamic task
streams (it has no place in a list), each weight of the task's linear is streamed exactly once and
in the linear's order, it is used nowhere else in the body, a stage fits a slot, and weights never
change, so that loading early reads what loading late would.
"""

from __future__ import annotations

from xdsl.dialects.builtin import FixedBitwidthType, ModuleOp
from xdsl.ir import BlockArgument

from mpkir.analysis.families import Access, Family, evaluate
from mpkir.analysis.naming import operator_text
from mpkir.analysis.schedule import Schedule, schedule_error
from mpkir.dialects import task, tensor

VECTOR_BYTES = 16
"""Bulk copies move multiples of this, from and to multiples of it."""


def check_stages(module: ModuleOp, schedule: Schedule) -> None:
    """Raise MpkirError where a stage would be lost, left over, cut short, or too large."""
    rings = [op for op in module.walk() if isinstance(op, task.RingOp)]
    if len(rings) > 1:
        raise schedule_error(f"the module has {len(rings)} rings, a worker has one")
    for family in schedule.families:
        stream = family.op.stream
        if stream is None:
            continue
        name = f"@{family.name} ({operator_text(family)})"
        if not rings:
            raise schedule_error(f"{name} streams its weights, but the module has no ring")
        if family.op.dynamic is not None:
            raise schedule_error(
                f"{name} streams its weights, but its tasks have no place in a list that a loader "
                "could follow",
                "leave out the stream",
            )
        for read in stream.reads:
            if not 0 <= read < len(family.op.reads):
                count = len(family.op.reads)
                raise schedule_error(f"{name} streams its read {read}; it has {count} reads")
            _check_stage(family, family.accesses[read], stream, rings[0], name)
        _check_order(family, stream, name)


def _check_order(family: Family, stream: task.StreamAttr, name: str) -> None:
    """What is loaded is what a task takes, in its order."""
    taken = _taken(family)
    if tuple(stream.reads) == taken:
        return
    loaded = list(stream.reads)
    twice = next((read for read in loaded if loaded.count(read) > taken.count(read)), None)
    lost = next((read for read in taken if loaded.count(read) < taken.count(read)), None)
    if twice is not None:
        text = f"a stage of {_buffer(family, twice)!r} is loaded that nobody gives back"
    elif lost is not None:
        text = f"it takes stages of {_buffer(family, lost)!r} that nobody loads"
    else:
        text = f"it takes them in the order {list(taken)}"
    raise schedule_error(f"{name} streams its reads {loaded}, but {text}")


def _taken(family: Family) -> tuple[int, ...]:
    """The reads that a task takes from the ring: the weights of its one linear, in that order."""
    linears = [op for op in family.op.body.block.ops if isinstance(op, tensor.LinearOp)]
    weights = tuple(linears[0].weights) if len(linears) == 1 else ()
    return tuple(
        weight.index
        for weight in weights
        if isinstance(weight, BlockArgument) and len(tuple(weight.uses)) == 1
    )


def _buffer(family: Family, read: int) -> str:
    return family.accesses[read].buffer.sym.data


def _check_stage(
    family: Family, access: Access, stream: task.StreamAttr, ring: task.RingOp, name: str
) -> None:
    """The stages of one operand cover its box and fit the ring."""
    rows, parts, slot = stream.rows.data, stream.parts.data, ring.bytes.value.data
    buffer = access.buffer.sym.data
    if access.buffer.kind.data is not task.BufferKind.WEIGHT:
        raise schedule_error(
            f"{name} streams {buffer!r} ahead of its tasks, but it is no weight: the loader would "
            "read it before its writer is done"
        )
    columns = evaluate(access.box.offsets.data, family.coordinates)[:, 1:]
    rank_two = len(access.shape) == 2
    whole = rank_two and access.box.shape[1] == access.shape[1] and not columns.any()
    if not whole or access.strides != (access.shape[1], 1):
        raise schedule_error(f"{name} streams {buffer!r}, of which a task's box is no whole rows")
    element_type = task.memref_type_of(access.buffer.result).get_element_type()
    assert isinstance(element_type, FixedBitwidthType)
    row_bytes = access.shape[1] * element_type.bitwidth // 8
    if row_bytes % (parts * VECTOR_BYTES) or access.offset * element_type.bitwidth // 8 % 16:
        raise schedule_error(
            f"{name} cuts rows of {row_bytes} bytes of {buffer!r} into {parts} parts that are no "
            f"multiples of {VECTOR_BYTES} bytes"
        )
    is_packed = access.buffer.packed is not None
    if is_packed != (rows == task.PACKED_ROWS) and (is_packed or parts > 1):
        raise schedule_error(
            f"{name} takes stages of {rows} rows of {buffer!r}, which is "
            f"{'packed by' if is_packed else 'not packed, by'} {task.PACKED_ROWS}"
        )
    if rows * row_bytes // parts > slot:
        raise schedule_error(
            f"a stage of {name} has {rows * row_bytes // parts} bytes, a slot of the ring {slot}"
        )
