"""Bodies: what a backend prints code for. Families whose tiles, shapes and region maps agree share
one.

A body is a representative `mpk_task.grid` stripped of its names and its schedule; all its shapes
are compile-time constants. Its operands are the grid's reads, then its writes; operand k of a task
is the whole buffer number `families[f].operand[k]`, seen in the shape of `operands[k]`, in which
the task touches the box at `operands[k].offsets(coordinates)`. A buffer may be seen through a view:
the element of the shape at some indices is number `origin + sum(index * stride)` of the buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from math import prod

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.ir.affine import AffineMap
from xdsl.printer import Printer

from mpkir.dialects import task
from mpkir.runtime.table import MAX_OPERANDS


@dataclass(frozen=True)
class Panels:
    """How a buffer of tokens by columns lies: element (t, k) is number
    `k // group * (group * rows) + t * group + k % group` in memory."""

    group: int
    columns: int
    rows: int


@dataclass(frozen=True)
class Operand:
    """One buffer of a body: its shape as the body sees it, and the box that a task touches."""

    shape: tuple[int, ...]
    element_type: Attribute
    offsets: AffineMap
    """From grid coordinates to the box's first index in each dimension."""
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    """In elements of the buffer."""
    origin: int
    """The buffer's element at index 0 in each dimension."""
    is_flagged: bool = False
    """Whether each element carries the number of the step that wrote it."""
    is_brief: bool = False
    """Whether of that number only the last bit is there."""
    apart: int = 0
    """Neighbouring elements that have a line of memory to themselves; 0: elements lie together."""
    panels: Panels | None = None
    """How elements lie that do so in panels; numbers of elements are as if they were row-major."""
    in_planes: bool = False
    """Whether f32 lies as two planes of bf16, rounded and what that lost."""
    is_packed: bool = False
    """Whether a weight lies as blocks for tensor cores."""
    is_exchange: bool = False
    """Whether it is a buffer that ranks write into each other's memory."""
    row: int | None = None
    """Of an operand that ranks are sent: elements of a rank's row of the buffer. Element e of rank
    r's row is the buffer's `r * row + e`. Of one written through `mpk_task.mine`, shape, strides
    and origin are within the row, and an element is stored in the memory of every rank."""
    parts: task.Parts | None = None
    """Of an operand written through `mpk_task.scatter`: how the value, of which shape and box are,
    is divided; strides are those of a row. Element (.., i, ..) is number (.., i % size, ..) of the
    row in the memory of each rank r that has part r * count // ranks = i // size."""

    @property
    def is_plain(self) -> bool:
        """Whether the shape is row-major from the buffer's first element on."""
        return self.origin == 0 and self.strides == task.row_major(self.shape)


@dataclass(frozen=True)
class Body:
    """One piece of code: a switch case of the generated kernel."""

    index: int
    grid: tuple[int, ...]
    """Sizes of the grid of every family that uses this body; a task's index is row-major in it."""
    reads: tuple[Operand, ...]
    writes: tuple[Operand, ...]
    op: task.GridOp
    """The first family of this body; its region is the computation on tiles."""
    families: tuple[str, ...]
    is_dynamic: bool
    """Whether tasks of one of the families are given out while the program runs."""

    @property
    def operands(self) -> tuple[Operand, ...]:
        """Reads, then writes: the order of operand buffers in the family table."""
        return self.reads + self.writes

    @property
    def buffer_numbers(self) -> tuple[int, ...]:
        """Which buffer of a row of the family table each operand is: its own, or, of a result that
        the row has no room for, that of what it is written over.
        """
        reads = [task.buffer_of(value) for value in self.op.reads]
        numbers = list(range(len(self.operands)))
        for number in numbers[MAX_OPERANDS:]:
            buffer = task.buffer_of(self.op.writes[number - len(reads)])
            if buffer in reads:
                numbers[number] = reads.index(buffer)
        return tuple(numbers)

    @property
    def tile_ops(self) -> tuple[Operation, ...]:
        """The tensor operators of the tile computation, without its terminator."""
        return tuple(self.op.body.block.ops)[:-1]


def apart_of(buffer: task.BufferOp) -> int:
    """Neighbouring elements of a buffer that have a line to themselves; 0 if all lie together."""
    return 0 if buffer.apart is None else buffer.apart.value.data


def panels_of(buffer: task.BufferOp) -> Panels | None:
    """How a buffer lies that does so in panels."""
    if buffer.panels is None:
        return None
    elements = prod(task.memref_type_of(buffer.result).get_shape())
    return Panels(buffer.panels.group, buffer.panels.columns, buffer.panels.rows(elements))


def _operands(values: Sequence[SSAValue], boxes: Sequence[task.RegionAttr]) -> tuple[Operand, ...]:
    result: list[Operand] = []
    for value, box in zip(values, boxes, strict=True):
        type = task.memref_type_of(value)
        strides, origin = task.layout_of(type)
        buffer = task.buffer_of(value)
        scatter = task.scatter_of(value)
        if scatter is not None:
            strides = task.row_major(task.memref_type_of(buffer.result).get_shape()[1:])
        is_sent = task.is_mine(value) or scatter is not None
        result.append(
            Operand(
                tuple(type.get_shape()),
                type.get_element_type(),
                box.offsets.data,
                box.shape,
                strides,
                origin,
                buffer.flagged is not None,
                buffer.brief is not None,
                apart_of(buffer),
                panels_of(buffer),
                buffer.planes is not None,
                buffer.packed is not None,
                buffer.exchange is not None,
                task.row_elements(buffer) if is_sent else None,
                None if scatter is None else scatter.parts,
            )
        )
    return tuple(result)


def _code_key(op: task.GridOp) -> str:
    """Text that is equal for families that can share code."""
    text = StringIO()
    printer = Printer(text)
    printer.print_string(f"{op.grid} ")
    for value, box in zip((*op.reads, *op.writes), op.boxes.data, strict=True):
        printer.print_attribute(value.type)
        printer.print_attribute(box)
        printer.print_string(" flagged " if task.buffer_of(value).flagged is not None else " ")
        printer.print_string("brief " if task.buffer_of(value).brief is not None else "")
        printer.print_string(f"{apart_of(task.buffer_of(value))} ")
        printer.print_string(f"{panels_of(task.buffer_of(value)) or ''} ")
        printer.print_string("planes " if task.buffer_of(value).planes is not None else "")
        printer.print_string("packed " if task.buffer_of(value).packed is not None else "")
        if task.buffer_of(value).exchange is not None:
            scatter = task.scatter_of(value)
            is_sent = task.is_mine(value) or scatter is not None
            row = task.row_elements(task.buffer_of(value)) if is_sent else ""
            printer.print_string(f"exchange {row} {scatter and scatter.parts} ")
    if op.stream is not None:
        printer.print_attribute(op.stream)
    printer.print_region(_without_name_hints(op))
    return text.getvalue()


def _without_name_hints(op: task.GridOp):
    region = op.body.clone()
    for block in region.blocks:
        for arg in block.args:
            arg.name_hint = None
    for inner in region.walk():
        for result in inner.results:
            result.name_hint = None
        for nested in inner.regions:
            for block in nested.blocks:
                for arg in block.args:
                    arg.name_hint = None
    return region


def bodies_of(module: ModuleOp) -> tuple[Body, ...]:
    """The distinct bodies of a module's families, in order of first use."""
    groups: dict[str, list[task.GridOp]] = {}
    for op in module.walk():
        if isinstance(op, task.GridOp):
            groups.setdefault(_code_key(op), []).append(op)
    return tuple(
        Body(
            index,
            ops[0].grid,
            _operands(ops[0].reads, ops[0].read_boxes),
            _operands(ops[0].writes, ops[0].write_boxes),
            ops[0],
            tuple(op.sym_name.data for op in ops),
            any(op.dynamic is not None for op in ops),
        )
        for index, ops in enumerate(groups.values())
    )
