"""The shared-memory ring, played: what a worker's loader brings against what a task takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import FixedBitwidthType, ModuleOp
from xdsl.ir import BlockArgument

from mpkir.dialects import task, tensor
from mpkir.dialects.task import BufferKind, buffer_of

COPY_BYTES = 16
"""Bulk copies move multiples of this."""


@dataclass(frozen=True)
class Stage:
    """What one copy brings: rows of a read, or a part of one row."""

    read: int
    row: int
    rows: int
    part: int


@dataclass(frozen=True)
class Ring:
    """A ring of slots."""

    slot_bytes: int

    def fault(self, op: task.GridOp) -> str | None:
        """What goes wrong when the loader brings the stages of such a task, if anything.

        All tasks of a family have the same stages: a box over the end of a weight is cut there for
        the loader and for the task.
        """
        assert op.stream is not None
        reads = [read for read in op.stream.reads if 0 <= read < len(op.reads)]
        if len(reads) < len(op.stream.reads):
            return "streams a read that it has not"
        for read in reads:
            if (found := self._copy_fault(op, read)) is not None:
                return found
        if reads == (wanted := _taken(op)):
            return None
        loaded, taken = list(_stages(op, reads)), list(_stages(op, wanted))
        for brought, wanted in zip(loaded, taken, strict=False):
            if brought != wanted:
                return f"takes {wanted} from the ring, where the loader has brought {brought}"
        if len(loaded) > len(taken):
            return f"leaves {loaded[len(taken)]} in the ring, for the next task to take"
        if len(taken) > len(loaded):
            return f"waits for ever for {taken[len(loaded)]}, which nobody loads"
        return None

    def _copy_fault(self, op: task.GridOp, read: int) -> str | None:
        value, box = op.reads[read], op.read_boxes[read]
        buffer, type = buffer_of(value), task.memref_type_of(value)
        name = buffer.sym.data
        if buffer.kind.data is not BufferKind.WEIGHT:
            return f"has {name!r} read by the loader whether its elements are written yet or not"
        strides, offset = task.layout_of(type)
        element_type = type.get_element_type()
        assert isinstance(element_type, FixedBitwidthType)
        size = element_type.bitwidth // 8
        begin = {box.offsets_at(op.coordinates(index)) for index in range(op.size)}
        rows = len(strides) == 2 and strides[1] == 1 and strides[0] == box.shape[1]
        if not rows or any(column for _, column in begin):
            return f"streams {name!r}, whose rows do not lie one after another"
        assert op.stream is not None
        part_bytes = box.shape[1] * size / op.stream.parts.data
        if part_bytes % COPY_BYTES or offset * size % COPY_BYTES:
            return f"has {part_bytes} bytes of {name!r} copied, no multiple of {COPY_BYTES}"
        if part_bytes * op.stream.rows.data > self.slot_bytes:
            return f"has a stage of {name!r} written over the end of its slot"
        return None


def _stages(op: task.GridOp, reads: Sequence[int]) -> Iterator[Stage]:
    """The stages of these reads of a task, each from its first row to its last."""
    assert op.stream is not None
    rows, parts = op.stream.rows.data, op.stream.parts.data
    for read in reads:
        total = op.read_boxes[read].shape[0]
        for row in range(0, total, rows):
            for part in range(parts):
                yield Stage(read, row, min(rows, total - row), part)


def _taken(op: task.GridOp) -> list[int]:
    """The reads that a task's linear multiplies with: it takes their stages in this order."""
    linears = [inner for inner in op.body.block.ops if isinstance(inner, tensor.LinearOp)]
    weights = linears[0].weights if len(linears) == 1 else ()
    return [weight.index for weight in weights if isinstance(weight, BlockArgument)]


def ring_of(module: ModuleOp) -> Ring | None:
    """The ring of a module, if its workers have one."""
    rings = [op for op in module.walk() if isinstance(op, task.RingOp)]
    return Ring(rings[0].bytes.value.data) if rings else None
