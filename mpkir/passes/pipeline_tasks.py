"""pipeline-tasks: which tasks stream their weights through shared memory, in what stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from xdsl.context import Context
from xdsl.dialects.builtin import (
    BFloat16Type,
    FixedBitwidthType,
    Float16Type,
    Float32Type,
    MemRefType,
    ModuleOp,
    UnitAttr,
)
from xdsl.ir import Attribute, BlockArgument
from xdsl.ir.affine import AffineConstantExpr
from xdsl.passes import ModulePass

from mpkir.analysis.families import Access, Family, families_of
from mpkir.analysis.stages import VECTOR_BYTES
from mpkir.analysis.stream_share import in_flight_of
from mpkir.dialects import task, tensor
from mpkir.errors import MpkirError
from mpkir.machine import machine_named


def _streamed_reads(family: Family) -> tuple[int, ...]:
    """Which reads are the weights of the body's one linear; none for any other body."""
    linears = [op for op in family.op.body.block.ops if isinstance(op, tensor.LinearOp)]
    if len(linears) != 1:
        return ()
    weights = tuple(linears[0].weights)
    arguments = [weight for weight in weights if isinstance(weight, BlockArgument)]
    if len(arguments) != len(weights):
        return ()
    return tuple(argument.index for argument in arguments)


def _row_bytes(access: Access) -> int | None:
    """Bytes of a row if a task's box of this weight is a number of its whole rows, else None."""
    if access.buffer.kind.data is not task.BufferKind.WEIGHT or len(access.shape) != 2:
        return None
    column = access.box.offsets.data.results[1]
    whole = isinstance(column, AffineConstantExpr) and column.value == 0
    if not whole or access.box.shape[1] != access.shape[1]:
        return None
    size = _element_bytes(access)
    return None if size is None else access.shape[1] * size


def _element_type(access: Access) -> Attribute:
    assert isinstance(access.buffer.result.type, MemRefType)
    return access.buffer.result.type.get_element_type()


def _element_bytes(access: Access) -> int | None:
    element_type = _element_type(access)
    if not isinstance(element_type, BFloat16Type | Float16Type | Float32Type):
        return None
    assert isinstance(element_type, FixedBitwidthType)
    return element_type.bitwidth // 8


def _stage(rows: int, row_bytes: int, slot_bytes: int) -> tuple[int, int] | None:
    """Rows of a stage and parts of a row, one of them 1; None if no even cut of a row fits."""
    if row_bytes <= slot_bytes:
        stages = -(-rows // (slot_bytes // row_bytes))
        return -(-rows // stages), 1
    vectors = row_bytes // VECTOR_BYTES
    least = -(-row_bytes // slot_bytes)
    parts = next((p for p in range(least, vectors + 1) if vectors % p == 0), None)
    return None if parts is None else (1, parts)


def _stream(family: Family, slot_bytes: int) -> task.StreamAttr | None:
    reads = _streamed_reads(family)
    if not reads:
        return None
    accesses = [family.accesses[read] for read in reads]
    row_bytes = _row_bytes(accesses[0])
    if row_bytes is None or row_bytes % VECTOR_BYTES:
        return None
    if any(_row_bytes(a) != row_bytes or a.box != accesses[0].box for a in accesses):
        return None
    stage = _stage(accesses[0].box.shape[0], row_bytes, slot_bytes)
    return None if stage is None else task.StreamAttr(reads, *stage)


MOST_TOKENS = 16
"""Rows of x that one fragment of a tensor core holds."""


def packable_reads(family: Family) -> tuple[int, ...]:
    """Which reads are weights that tensor cores take packed; none if they have no use for them."""
    reads = _streamed_reads(family)
    if not reads:
        return ()
    linear = next(op for op in family.op.body.block.ops if isinstance(op, tensor.LinearOp))
    accesses = [family.accesses[read] for read in reads]
    first = accesses[0]
    if (
        any(_row_bytes(a) is None or a.box != first.box or a.shape != first.shape for a in accesses)
        or any(a.strides != task.row_major(a.shape) or a.offset for a in accesses)
        or any(not isinstance(_element_type(a), BFloat16Type) for a in accesses)
        or not task.is_packable(first.shape)
        or first.box.shape[0] % task.PACKED_ROWS
        or prod(tensor.shape_of(linear.x)[:-1]) > MOST_TOKENS
        or _has_layer_norm(linear)
    ):
        return ()
    return reads


def _packed_stream(family: Family, slot_bytes: int) -> task.StreamAttr | None:
    """How a family would stream its weights packed; None if it does not."""
    reads = packable_reads(family)
    if not reads:
        return None
    blocks = family.accesses[reads[0]].box.shape[1] // task.PACKED_COLUMNS
    block_bytes = 2 * task.PACKED_ROWS * task.PACKED_COLUMNS
    parts = next(
        (
            p
            for p in range(1, blocks + 1)
            if blocks % p == 0 and blocks // p * block_bytes <= slot_bytes
        ),
        None,
    )
    return None if parts is None else task.StreamAttr(reads, task.PACKED_ROWS, parts)


def _has_layer_norm(linear: tensor.LinearOp) -> bool:
    prologue = linear.prologue
    return prologue is not None and any(
        isinstance(op, tensor.LayerNormOp) for op in prologue.block.ops
    )


def _packed_streams(families: Sequence[Family], slot_bytes: int) -> dict[Family, task.StreamAttr]:
    """The families whose weights may be packed: whoever else reads them takes them packed, too."""
    streams = {f: s for f in families if (s := _packed_stream(f, slot_bytes)) is not None}
    while True:
        fixed = {
            access.buffer
            for family in families
            for number, access in enumerate(family.accesses)
            if not (family in streams and number in streams[family].reads)
            and not _reads_elements(family, number)
        }
        dropped = [
            family
            for family, stream in streams.items()
            if any(family.accesses[read].buffer in fixed for read in stream.reads)
        ]
        if not dropped:
            return streams
        for family in dropped:
            del streams[family]


def _reads_elements(family: Family, number: int) -> bool:
    """Whether a family reads a matrix element by element, wherever these lie."""
    access = family.accesses[number]
    if access.is_write or access.strides != task.row_major(access.shape) or access.offset:
        return False
    if len(access.shape) != 2 or number >= len(family.op.body.block.args):
        return False
    users = {use.operation for use in family.op.body.block.args[number].uses}
    return all(isinstance(user, tensor.EmbeddingOp) for user in users)


@dataclass(frozen=True)
class PipelineTasksPass(ModulePass):
    """Let linear tasks stream their weights through a ring in shared memory.

    A worker's loader runs ahead of its tasks, whatever these wait for: weights are constants. A
    family streams if its body is one linear whose weights are buffers cut into whole rows of a
    multiple of 16 bytes. `slots` of `slot_bytes` each, as many as the machine's shared memory has
    beside the scratch of task bodies, with at most `in_flight` copies under way; what is not given
    comes from the machine model, in_flight by how much a step waits. With `pack`, weights in bf16
    of a multiple of 8 rows and 32 columns lie packed if all who read them can take them so; a stage
    is 8 rows then, or parts of them.
    """

    name = "mpk-pipeline-tasks"

    machine: str = "h100"
    slot_bytes: int | None = None
    slots: int | None = None
    in_flight: int | None = None
    pack: bool = False

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        machine = machine_named(self.machine)
        slot_bytes = self.slot_bytes or machine.ring.slot_bytes
        if slot_bytes % VECTOR_BYTES or slot_bytes < VECTOR_BYTES:
            raise MpkirError(
                f"slots of {slot_bytes} bytes", where=self.name, hint="give a multiple of 16"
            )
        fitting = (machine.shared_memory - machine.scratch) // slot_bytes
        slots = min(self.slots or machine.ring.slots, fitting)
        if slots < 1:
            raise MpkirError(
                f"{machine.name} has {machine.shared_memory} bytes of shared memory a worker, of "
                f"which tasks use {machine.scratch}: no room for a slot of {slot_bytes}",
                where=self.name,
                hint="make slot_bytes smaller, or leave this pass out",
            )
        families = families_of(op)
        packed = _packed_streams(families, slot_bytes) if self.pack else {}
        streams = [packed.get(family) or _stream(family, slot_bytes) for family in families]
        for family, stream in zip(families, streams, strict=True):
            family.op.stream = stream
            for read in stream.reads if stream is not None and family in packed else ():
                family.accesses[read].buffer.packed = UnitAttr()
        if any(stream is not None for stream in streams):
            in_flight = min(self.in_flight or in_flight_of(op, machine), slots)
            first = families[0].op
            assert first.parent is not None
            first.parent.insert_op_before(task.RingOp(slots, slot_bytes, in_flight), first)
