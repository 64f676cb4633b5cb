"""mpk_task: families of tasks, each one worker's work, on regions of buffers.

One op states a whole family: a grid of tasks, the region of each buffer that a task reads or writes
as an affine function of its grid index, and as body the tensor operator on tiles of those sizes.
Later levels add to a family what it waits for and signals (edges of `mpk_event`), where its tasks
stand in the linear order, and on which worker each runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import auto
from math import prod
from typing import cast

from xdsl.dialects.builtin import (
    I64,
    AffineMapAttr,
    ArrayAttr,
    DenseArrayBase,
    IntAttr,
    IntegerAttr,
    MemRefType,
    NoneAttr,
    StridedLayoutAttr,
    StringAttr,
    SymbolNameConstraint,
    TensorType,
    UnitAttr,
    i64,
)
from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import (
    Attribute,
    Block,
    Dialect,
    ParametrizedAttribute,
    Region,
    SpacedOpaqueSyntaxAttribute,
    SSAValue,
)
from xdsl.ir.affine import AffineExpr, AffineMap
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    param_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.traits import IsTerminator, MemoryWriteEffect, Pure, SymbolOpInterface
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.str_enum import StrEnum

from mpkir.dialects.event import EdgeAttr


def memref_type_of(value: SSAValue) -> MemRefType[Attribute]:
    """The type of a value that is known to be a buffer or a view of one."""
    assert isinstance(value.type, MemRefType)
    return cast(MemRefType[Attribute], value.type)


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides, in elements, of a dense array of this shape."""
    return tuple(prod(shape[dim + 1 :]) for dim in range(len(shape)))


def layout_of(type: MemRefType[Attribute]) -> tuple[tuple[int, ...], int]:
    """Strides of the dimensions and the offset of a buffer or view, in elements of its buffer."""
    layout = type.layout
    if isinstance(layout, NoneAttr):
        return row_major(type.get_shape()), 0
    strides = layout.get_strides() or ()
    offset = layout.get_offset()
    assert offset is not None
    return tuple(stride for stride in strides if stride is not None), offset


def buffer_of(value: SSAValue) -> BufferOp:
    """The buffer behind a memref value, through views."""
    while isinstance(owner := value.owner, ViewOp):
        value = owner.source
    assert isinstance(owner, BufferOp)
    return owner


class BufferKind(StrEnum):
    """Who owns a buffer's contents.

    weight: bound when the program is loaded, never written; state: kept across steps; input,
    output: written or read by the host between launches; scratch: an activation.
    """

    WEIGHT = auto()
    STATE = auto()
    INPUT = auto()
    OUTPUT = auto()
    SCRATCH = auto()


@irdl_attr_definition
class BufferKindAttr(EnumAttribute[BufferKind], SpacedOpaqueSyntaxAttribute):
    name = "mpk_task.kind"


@irdl_op_definition
class BufferOp(IRDLOperation):
    """A contiguous row-major array in global memory; `initial` fills a state before the first step.

    `device`: in whose memory it lies, where a module runs on several (`mpk.devices`). A task reads
    buffers of the device it runs on, and writes these and those of others. `donated`: the program
    writes over the state that it was given, where it lies.

    ```mlir
    %k0 = mpk_task.buffer state "k0" initial 0 donated : memref<1x3x512x64xbf16>
    %theirs = mpk_task.buffer scratch "part1" device 1 : memref<1x4096xf32>
    ```
    """

    name = "mpk_task.buffer"

    kind = prop_def(BufferKindAttr)
    sym = prop_def(StringAttr, prop_name="name")
    initial = prop_def(IntegerAttr[I64], default_value=IntegerAttr(0, i64))
    device = prop_def(IntegerAttr[I64], default_value=IntegerAttr(0, i64))
    donated = opt_prop_def(UnitAttr)
    result = result_def(MemRefType.constr())

    traits = traits_def(MemoryWriteEffect())

    assembly_format = (
        "$kind $name (`initial` $initial^)? (`device` $device^)? (`donated` $donated^)? attr-dict "
        "`:` type($result)"
    )

    def __init__(
        self, kind: BufferKind, name: str, type: Attribute, initial: int = 0, device: int = 0
    ):
        super().__init__(
            properties={
                "kind": BufferKindAttr(kind),
                "name": StringAttr(name),
                "initial": IntegerAttr(initial, i64),
                "device": IntegerAttr(device, i64),
            },
            result_types=[type],
        )

    def verify_(self) -> None:
        if not isinstance(memref_type_of(self.result).layout, NoneAttr):
            raise VerifyException(f"a buffer is row-major, got {self.result.type}")
        if self.device.value.data < 0:
            raise VerifyException(f"devices count from 0, got {self.device.value.data}")
        if self.donated is not None and self.kind.data is not BufferKind.STATE:
            raise VerifyException(f"only a state is donated, not {self.kind.data.value} {self.sym}")


@irdl_op_definition
class ViewOp(IRDLOperation):
    """Elements of a buffer under other indices: reshaped, sliced, transposed, broadcast, a prefix.

    The result's type says which: element (i, j, ..) is the buffer's element
    `offset + i * strides[0] + j * strides[1] + ..`. A type without a layout is row-major from the
    buffer's first element. This holds for a view of a view too: strides and offset count elements
    of the buffer, never of the source. A stride of 0 repeats elements, in a view that is only read;
    otherwise different indices are different elements.

    ```mlir
    %columns = mpk_task.view %x :
      memref<64x32xbf16> to memref<64x16xbf16, strided<[32, 1], offset: 16>>
    ```
    """

    name = "mpk_task.view"

    source = operand_def(MemRefType.constr())
    result = result_def(MemRefType.constr())

    traits = traits_def(Pure())

    assembly_format = "$source attr-dict `:` type($source) `to` type($result)"

    def __init__(
        self,
        source: SSAValue,
        shape: Sequence[int],
        strides: Sequence[int] | None = None,
        offset: int = 0,
    ):
        dense = row_major(shape)
        strides = dense if strides is None else tuple(strides)
        layout = (
            NoneAttr() if (strides, offset) == (dense, 0) else StridedLayoutAttr(strides, offset)
        )
        super().__init__(
            operands=[source],
            result_types=[MemRefType(memref_type_of(source).get_element_type(), shape, layout)],
        )

    def verify_(self) -> None:
        source, result = memref_type_of(self.source), memref_type_of(self.result)
        if not isinstance(self.source.owner, ViewOp | BufferOp):
            raise VerifyException("a view is of a buffer or of another view")
        if source.get_element_type() != result.get_element_type():
            raise VerifyException(f"view keeps the type of elements, got {source} to {result}")
        shape = result.get_shape()
        if any(size < 1 for size in shape):
            raise VerifyException(f"sizes of a view are positive, got {result}")
        if not isinstance(result.layout, NoneAttr):
            _verify_layout(result)
        strides, offset = layout_of(result)
        last = offset + sum(
            (size - 1) * stride for size, stride in zip(shape, strides, strict=True)
        )
        buffer = memref_type_of(buffer_of(self.source).result)
        if last >= prod(buffer.get_shape()):
            raise VerifyException(
                f"view reaches element {last} of {buffer}, which has {prod(buffer.get_shape())}"
            )


def _verify_layout(type: MemRefType[Attribute]) -> None:
    """Raise VerifyException unless a layout has constant strides under which dimensions nest."""
    layout, shape = type.layout, type.get_shape()
    if not isinstance(layout, StridedLayoutAttr):
        raise VerifyException(f"the layout of a view is strided, got {type}")
    strides, offset = layout.get_strides(), layout.get_offset()
    if len(strides) != len(shape):
        raise VerifyException(f"{type} has {len(strides)} strides for {len(shape)} dimensions")
    if offset is None or offset < 0 or any(stride is None or stride < 0 for stride in strides):
        raise VerifyException(f"strides and offset of a view are constants from 0, got {type}")
    span = 1
    for stride, size in sorted((s or 0, n) for s, n in zip(strides, shape, strict=True)):
        if not stride or size == 1:
            continue
        if stride < span:
            raise VerifyException(
                f"two indices of {type} are one element; only a stride of 0 repeats elements"
            )
        span += stride * (size - 1)


@irdl_attr_definition
class RegionAttr(ParametrizedAttribute):
    """The box of a buffer that a task touches: offsets as a function of the grid index, constant
    sizes.

    A box that reaches over the buffer's end is cut there: reads find zeros outside (an argmax finds
    no candidate), writes outside are dropped.

    ```mlir
    #mpk_task.region<affine_map<(d0) -> (d0 * 16, 0)>, [16, 2048]>
    ```
    """

    name = "mpk_task.region"

    offsets: AffineMapAttr = param_def()
    sizes: DenseArrayBase[I64] = param_def()

    def __init__(
        self, offsets: AffineMap | AffineMapAttr, sizes: Sequence[int] | DenseArrayBase[I64]
    ):
        super().__init__(
            AffineMapAttr(offsets) if isinstance(offsets, AffineMap) else offsets,
            sizes
            if isinstance(sizes, DenseArrayBase)
            else DenseArrayBase.from_list(i64, list(sizes)),
        )

    @classmethod
    def whole(cls, shape: Sequence[int], grid_rank: int) -> RegionAttr:
        """The region that covers a buffer of this shape, for every task of a grid."""
        zeros = tuple(AffineExpr.constant(0) for _ in shape)
        return cls(AffineMap(grid_rank, 0, zeros), shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the box."""
        return tuple(int(size) for size in self.sizes.get_values())

    def offsets_at(self, coordinates: Sequence[int]) -> tuple[int, ...]:
        """Where the box of the task at these grid coordinates begins."""
        return tuple(self.offsets.data.eval(list(coordinates), []))

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[AffineMapAttr | DenseArrayBase[I64]]:
        with parser.in_angle_brackets():
            offsets = parser.parse_attribute()
            parser.parse_punctuation(",")
            sizes = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_integer)
        if not isinstance(offsets, AffineMapAttr):
            parser.raise_error("expected an affine map of offsets")
        return (offsets, DenseArrayBase.from_list(i64, sizes))

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_attribute(self.offsets)
            printer.print_string(", [")
            printer.print_list(self.shape, lambda size: printer.print_string(str(size)))
            printer.print_string("]")

    def verify(self) -> None:
        if len(self.offsets.data.results) != len(self.shape):
            raise VerifyException("a region has one offset for each size")
        if any(size < 1 for size in self.shape):
            raise VerifyException(f"sizes of a region are positive, got {self.shape}")


@irdl_attr_definition
class StreamAttr(ParametrizedAttribute):
    """How a task's weights pass through the worker's shared-memory ring.

    `operands`: which reads are streamed, in this order; each task's box of such a buffer is
    contiguous. A stage is `rows` rows of one operand, or, where a row is longer than a slot of the
    ring, one of `parts` equal parts of a row.

    ```mlir
    #mpk_task.stream<[1, 2], rows 4, parts 1>
    ```
    """

    name = "mpk_task.stream"

    operands: DenseArrayBase[I64] = param_def()
    rows: IntAttr = param_def()
    parts: IntAttr = param_def()

    def __init__(
        self,
        operands: Sequence[int] | DenseArrayBase[I64],
        rows: int | IntAttr,
        parts: int | IntAttr,
    ):
        super().__init__(
            operands
            if isinstance(operands, DenseArrayBase)
            else DenseArrayBase.from_list(i64, list(operands)),
            IntAttr(rows) if isinstance(rows, int) else rows,
            IntAttr(parts) if isinstance(parts, int) else parts,
        )

    @property
    def reads(self) -> tuple[int, ...]:
        """Indices of the streamed reads."""
        return tuple(int(operand) for operand in self.operands.get_values())

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[DenseArrayBase[I64] | IntAttr]:
        with parser.in_angle_brackets():
            operands = parser.parse_comma_separated_list(
                parser.Delimiter.SQUARE, parser.parse_integer
            )
            parser.parse_punctuation(",")
            parser.parse_keyword("rows")
            rows = parser.parse_integer(allow_negative=False)
            parser.parse_punctuation(",")
            parser.parse_keyword("parts")
            parts = parser.parse_integer(allow_negative=False)
        return (DenseArrayBase.from_list(i64, operands), IntAttr(rows), IntAttr(parts))

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string(
                f"{list(self.reads)}, rows {self.rows.data}, parts {self.parts.data}"
            )

    def verify(self) -> None:
        if self.rows.data < 1 or self.parts.data < 1 or min(self.rows.data, self.parts.data) != 1:
            raise VerifyException("a stage is some whole rows, or a part of one row")


@irdl_op_definition
class RingOp(IRDLOperation):
    """The shared-memory ring of every worker: `slots` stages of `bytes`, at most `in_flight` of
    them not landed yet.
    """

    name = "mpk_task.ring"

    slots = prop_def(IntegerAttr[I64])
    bytes = prop_def(IntegerAttr[I64])
    in_flight = prop_def(IntegerAttr[I64])

    traits = traits_def(MemoryWriteEffect())

    assembly_format = "`slots` $slots `bytes` $bytes `in_flight` $in_flight attr-dict"

    def __init__(self, slots: int, bytes: int, in_flight: int):
        super().__init__(
            properties={
                "slots": IntegerAttr(slots, i64),
                "bytes": IntegerAttr(bytes, i64),
                "in_flight": IntegerAttr(in_flight, i64),
            }
        )

    def verify_(self) -> None:
        if not 1 <= self.in_flight.value.data <= self.slots.value.data:
            raise VerifyException(
                "a ring has at least one stage in flight and no more than its slots"
            )
        if self.bytes.value.data % 16:
            raise VerifyException("a slot of the ring is a multiple of 16 bytes")


@irdl_op_definition
class IndexOp(IRDLOperation):
    """In a grid's body: the task's grid coordinate along `dim`, as tensor<1xi64>."""

    name = "mpk_task.index"

    dim = prop_def(IntegerAttr[I64])
    result = result_def(TensorType.constr())

    traits = traits_def(Pure())

    assembly_format = "$dim attr-dict `:` type($result)"

    def __init__(self, dim: int):
        super().__init__(
            properties={"dim": IntegerAttr(dim, i64)}, result_types=[TensorType(i64, [1])]
        )


@irdl_op_definition
class YieldOp(IRDLOperation):
    """Ends a grid's body: one tile for each buffer it writes."""

    name = "mpk_task.yield"

    tiles = var_operand_def(TensorType.constr())

    traits = traits_def(IsTerminator(), Pure())

    assembly_format = "($tiles^ `:` type($tiles))? attr-dict"

    def __init__(self, *tiles: SSAValue):
        super().__init__(operands=[tiles])


@irdl_op_definition
class GridOp(IRDLOperation):
    """A family of tasks.

    `shape` is the grid; `boxes` says for each read and then each written buffer which box a task
    touches. The body takes one tile for each read and yields one for each write; it is the tensor
    operator on tiles, so that a family can be executed by slicing, evaluating, storing. A state
    that is updated in place is both read and written. A family without buffers joins events.

    `waits`, `signals`: edges (event level). `first`: where the family begins in the linear order;
    `order`: the place of each of its tasks there, where they do not follow each other.
    `workers`, `slots`: for each task, row-major in the grid, its worker and its place in that
    worker's list. `dynamic`: instead of these, a task is given to a worker when the event that it
    waits for fires. `stream`: its weights go through the ring.

    ```mlir
    mpk_task.grid @l3.down [128] reads(%h, %w) writes(%x) boxes [..] {
    ^bb0(%0 : tensor<1x8192xbf16>, %1 : tensor<16x8192xbf16>):
      %2 = mpk_tensor.linear %0, [%1] : ...
      mpk_task.yield %2 : tensor<1x16xbf16>
    } : (memref<1x8192xbf16>, memref<2048x8192xbf16>) -> (memref<1x2048xbf16>)
    ```
    """

    name = "mpk_task.grid"

    sym_name = prop_def(SymbolNameConstraint())
    shape = prop_def(DenseArrayBase.constr(i64))
    reads = var_operand_def(MemRefType.constr())
    writes = var_operand_def(MemRefType.constr())
    boxes = prop_def(ArrayAttr[RegionAttr])
    waits = opt_prop_def(ArrayAttr[EdgeAttr])
    signals = opt_prop_def(ArrayAttr[EdgeAttr])
    first = opt_prop_def(IntegerAttr[I64])
    order = opt_prop_def(DenseArrayBase.constr(i64))
    workers = opt_prop_def(DenseArrayBase.constr(i64))
    slots = opt_prop_def(DenseArrayBase.constr(i64))
    dynamic = opt_prop_def(UnitAttr)
    stream = opt_prop_def(StreamAttr)
    body = region_def("single_block")

    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    traits = traits_def(SymbolOpInterface(), MemoryWriteEffect())

    assembly_format = (
        "$sym_name $shape (`reads` `(` $reads^ `:` type($reads) `)`)? "
        "(`writes` `(` $writes^ `:` type($writes) `)`)? `boxes` $boxes "
        "(`waits` $waits^)? (`signals` $signals^)? (`first` $first^)? (`order` $order^)? "
        "(`workers` $workers^)? (`slots` $slots^)? (`dynamic` $dynamic^)? (`stream` $stream^)? "
        "$body attr-dict"
    )

    def __init__(
        self,
        name: str,
        shape: Sequence[int],
        reads: Sequence[SSAValue],
        writes: Sequence[SSAValue],
        boxes: Sequence[RegionAttr],
        body: Region | Block,
    ):
        super().__init__(
            operands=[reads, writes],
            properties={
                "sym_name": StringAttr(name),
                "shape": DenseArrayBase.from_list(i64, list(shape)),
                "boxes": ArrayAttr(boxes),
            },
            regions=[Region(body) if isinstance(body, Block) else body],
        )

    @property
    def grid(self) -> tuple[int, ...]:
        """Sizes of the grid."""
        return tuple(int(size) for size in self.shape.get_values())

    @property
    def size(self) -> int:
        """Number of tasks."""
        return prod(self.grid)

    @property
    def read_boxes(self) -> tuple[RegionAttr, ...]:
        """The region of each read buffer."""
        return self.boxes.data[: len(self.reads)]

    @property
    def write_boxes(self) -> tuple[RegionAttr, ...]:
        """The region of each written buffer."""
        return self.boxes.data[len(self.reads) :]

    def coordinates(self, index: int) -> tuple[int, ...]:
        """Grid coordinates of the task with this row-major index."""
        result: list[int] = []
        for size in reversed(self.grid):
            index, remainder = divmod(index, size)
            result.append(remainder)
        return tuple(reversed(result))

    def verify_(self) -> None:
        reads, writes = tuple(self.reads), tuple(self.writes)
        if not self.grid or min(self.grid) < 1:
            raise VerifyException(f"grid @{self.sym_name.data} has sizes {self.grid}")
        if len(self.boxes.data) != len(reads) + len(writes):
            raise VerifyException(
                f"grid @{self.sym_name.data} touches {len(reads) + len(writes)} buffers "
                f"and has {len(self.boxes.data)} boxes"
            )
        for value, box in zip((*reads, *writes), self.boxes.data, strict=True):
            if len(box.shape) != len(memref_type_of(value).get_shape()):
                raise VerifyException(f"box {box} has not the rank of {value.type}")
            if box.offsets.data.num_dims != len(self.grid):
                raise VerifyException(f"box {box} does not map a grid of rank {len(self.grid)}")
        for value in writes:
            type = memref_type_of(value)
            if (kind := buffer_of(value).kind.data) in (BufferKind.WEIGHT, BufferKind.INPUT):
                raise VerifyException(
                    f"grid @{self.sym_name.data} writes {kind.value} {buffer_of(value).sym}, which "
                    "keeps what it is given"
                )
            if 0 in (s for s, n in zip(layout_of(type)[0], type.get_shape(), strict=True) if n > 1):
                raise VerifyException(
                    f"grid @{self.sym_name.data} writes {type}, which repeats elements"
                )
        last = self.body.block.last_op
        if not isinstance(last, YieldOp):
            raise VerifyException("the body of a grid ends with mpk_task.yield")
        _verify_tiles("takes", reads, self.read_boxes, self.body.block.args)
        _verify_tiles("yields", writes, self.write_boxes, last.tiles)
        for edge in (*(self.waits or ()), *(self.signals or ())):
            if edge.index.data.num_dims != len(self.grid):
                raise VerifyException(f"{edge} does not map a grid of rank {len(self.grid)}")
        for placed in (self.order, self.workers, self.slots):
            if placed is not None and len(placed) != self.size:
                raise VerifyException(f"{len(placed)} placements for {self.size} tasks")
        if self.dynamic is not None:
            self._verify_dynamic()

    def _verify_dynamic(self) -> None:
        if self.workers is not None or self.slots is not None or self.stream is not None:
            raise VerifyException(
                f"dynamic grid @{self.sym_name.data} has workers, slots or a stream, "
                "which need a place known beforehand"
            )
        if not any(edge.lag.data == 0 for edge in self.waits or ()):
            raise VerifyException(
                f"dynamic grid @{self.sym_name.data} waits for no event of its own step, "
                "so nothing would release its tasks"
            )


def _verify_tiles(
    verb: str,
    buffers: Sequence[SSAValue],
    boxes: Sequence[RegionAttr],
    tiles: Sequence[SSAValue],
) -> None:
    expected: list[Attribute] = []
    for buffer, box in zip(buffers, boxes, strict=True):
        expected.append(TensorType(memref_type_of(buffer).get_element_type(), box.shape))
    found = [tile.type for tile in tiles]
    if found != expected:
        raise VerifyException(
            f"the body {verb} ({', '.join(map(str, found))}) "
            f"when its boxes say ({', '.join(map(str, expected))})"
        )


Task = Dialect(
    "mpk_task",
    [BufferOp, ViewOp, RingOp, GridOp, IndexOp, YieldOp],
    [BufferKindAttr, RegionAttr, StreamAttr],
)

__all__ = [
    "BufferKind",
    "BufferKindAttr",
    "BufferOp",
    "GridOp",
    "IndexOp",
    "RegionAttr",
    "RingOp",
    "StreamAttr",
    "Task",
    "ViewOp",
    "YieldOp",
    "buffer_of",
    "layout_of",
    "memref_type_of",
    "row_major",
]
