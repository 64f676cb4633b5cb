"""lay-out-flags: how flagged activations lie in memory, so that polling them takes little.

Every worker polls what all of them read, so the bytes that an element takes are read many times
over. And a line of memory that several tasks write while everybody polls it takes longer to come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from xdsl.context import Context
from xdsl.dialects.builtin import BFloat16Type, Float32Type, IntegerAttr, ModuleOp, UnitAttr, i64
from xdsl.passes import ModulePass

from mpkir.analysis.dependence import touches_of_buffer
from mpkir.analysis.families import Access, Family, families_of
from mpkir.analysis.flagged_buffers import looks_at_all
from mpkir.analysis.storage import bytes_of
from mpkir.dialects import task
from mpkir.passes.token_panels import panels_of

_LINE = 128
"""Bytes of a line of memory."""


@dataclass(frozen=True)
class LayOutFlagsPass(ModulePass):
    """Keep flagged elements brief, and what small tasks write apart or, of many tokens, all in
    panels, in buffers that products read.

    `brief` is for f32 and, of `brief_bf16_from` tokens on, bf16: of fewer there is little to poll,
    and two bytes take longer to tell from old ones than four. It needs readers that look at every
    element in every step: then what is there is of this step or of the one before, and one bit says
    which.
    Products and pointwise operators do; whoever joins the parts of a split attention leaves out the
    empty ones. `apart` is for tasks that write less than a line, and at most `apart_up_to`
    elements; they have one each then. `panels` are for what products over packed weights poll
    straight (token_panels.py). With `planes` f32 lies in two of bf16 there, what rounding leaves
    and what it loses, for such products round x anyway and poll the first alone.
    """

    name = "mpk-lay-out-flags"

    brief_bf16_from: int = task.FEW_TOKENS + 1
    apart_up_to: int = 16
    panels: bool = True
    planes: bool = True

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        users: dict[task.BufferOp, list[tuple[Family, Access]]] = {}
        for family in families_of(op):
            for access in family.accesses:
                users.setdefault(access.buffer, []).append((family, access))
        polled: dict[task.BufferOp, list[tuple[Family, Access]]] = {}
        for buffer, uses in users.items():
            readers = [family for family, access in uses if not access.is_write]
            own = buffer.flagged is not None and buffer.exchange is None
            if not own or not all(map(looks_at_all, readers)):
                continue
            if self._fits(buffer):
                buffer.brief = UnitAttr()
            polled[buffer] = uses
        panels = panels_of(polled) if self.panels else {}
        for buffer, each in panels.items():
            buffer.panels = each
            element = task.memref_type_of(buffer.result).get_element_type()
            if self.planes and buffer.brief is not None and isinstance(element, Float32Type):
                buffer.planes = UnitAttr()
        runs = {
            buffer: _runs(buffer, [(family, access) for family, access in uses if access.is_write])
            for buffer, uses in polled.items()
            if buffer not in panels
        }
        groups = {buffer: self._group(buffer, each) for buffer, each in runs.items()}
        for buffer, each in runs.items():
            # Buffers of a type lie alike, so that those who read them share their code.
            alike = {groups[other] for other in runs if other.result.type == buffer.result.type}
            fits = [group for group in sorted(alike - {0}) if _divides(group, buffer, each)]
            if fits:
                buffer.apart = IntegerAttr(fits[0], i64)

    def _fits(self, buffer: task.BufferOp) -> bool:
        """Whether an element has room for a bit of the step."""
        element = task.memref_type_of(buffer.result).get_element_type()
        if isinstance(element, BFloat16Type) and _tokens(buffer) < self.brief_bf16_from:
            return False
        return isinstance(element, task.BRIEF_TYPES)

    def _group(self, buffer: task.BufferOp, runs: Sequence[tuple[int, int]]) -> int:
        """What is to lie apart of what tasks write; 0 if they write lines of their own as it is."""
        smallest, elements = min(size for _, size in runs), prod(_shape(buffer))
        can = smallest in task.APART and smallest * bytes_of(buffer) < _LINE * elements
        return smallest if can and smallest <= self.apart_up_to else 0


def _runs(buffer: task.BufferOp, writes: Sequence[tuple[Family, Access]]) -> list[tuple[int, int]]:
    """First index and length of what tasks write along the last dimension."""
    return [
        (box[-1].start, box[-1].stop - box[-1].start)
        for touch in touches_of_buffer(buffer, writes)
        for box in touch.slices()
    ]


def _divides(group: int, buffer: task.BufferOp, runs: Sequence[tuple[int, int]]) -> bool:
    """Whether groups hold what tasks write. What products read of many tokens lies in parts of
    blocks: there lines of their own would be more to poll than they save."""
    columns = _shape(buffer)[-1]
    if _tokens(buffer) > task.FEW_TOKENS and task.PACKED_COLUMNS % group != 0:
        return False
    return columns % group == 0 and all(
        start % group == 0 and size % group == 0 for start, size in runs
    )


def _tokens(buffer: task.BufferOp) -> int:
    return prod(_shape(buffer)[:-1])


def _shape(buffer: task.BufferOp) -> Sequence[int]:
    return task.memref_type_of(buffer.result).get_shape()
