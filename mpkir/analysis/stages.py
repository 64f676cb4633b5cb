"""Facts about streams: that a family's stages fit the slots of the ring they go through."""

from __future__ import annotations

from collections.abc import Iterator

from xdsl.dialects.builtin import FixedBitwidthType, MemRefType, ModuleOp

from mpkir.analysis.families import Family, families_of
from mpkir.dialects import task

VECTOR_BYTES = 16
"""Bulk copies move multiples of this, from and to multiples of it."""


def stage_errors(module: ModuleOp) -> Iterator[str]:
    """What is wrong with the streams of a module, one sentence each."""
    rings = [op for op in module.walk() if isinstance(op, task.RingOp)]
    if len(rings) > 1:
        yield f"the module has {len(rings)} rings, a worker has one"
    for family in families_of(module):
        if family.op.stream is None:
            continue
        if not rings:
            yield f"@{family.name} streams its weights, but the module has no ring"
            return
        yield from _errors(family, family.op.stream, rings[0])


def _errors(family: Family, stream: task.StreamAttr, ring: task.RingOp) -> Iterator[str]:
    rows, parts, slot = stream.rows.data, stream.parts.data, ring.bytes.value.data
    for read in stream.reads:
        if not 0 <= read < len(family.op.reads):
            yield f"@{family.name} streams its read {read}; it has {len(family.op.reads)} reads"
            continue
        access = family.accesses[read]
        name = access.buffer.sym.data
        if access.buffer.kind.data is not task.BufferKind.WEIGHT:
            yield f"@{family.name} streams {name!r} ahead of its tasks, but it is no weight"
            continue
        if len(access.shape) != 2 or access.box.shape[1] != access.shape[1]:
            yield f"@{family.name} streams {name!r}, of which a task's box is no whole rows"
            continue
        assert isinstance(access.buffer.result.type, MemRefType)
        element_type = access.buffer.result.type.get_element_type()
        assert isinstance(element_type, FixedBitwidthType)
        row_bytes = access.shape[1] * element_type.bitwidth // 8
        if row_bytes % (parts * VECTOR_BYTES):
            yield (
                f"@{family.name} cuts rows of {row_bytes} bytes of {name!r} into {parts} parts "
                f"that are no multiples of {VECTOR_BYTES} bytes"
            )
        elif rows * row_bytes // parts > slot:
            yield (
                f"a stage of @{family.name} has {rows * row_bytes // parts} bytes, a slot of the "
                f"ring {slot}"
            )
