"""Grids: families of tasks, with what they touch, wait for and signal, and where they run."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from xdsl.dialects.builtin import (
    I64,
    ArrayAttr,
    DenseArrayBase,
    IntegerAttr,
    MemRefType,
    StringAttr,
    SymbolNameConstraint,
    TensorType,
    UnitAttr,
    i64,
)
from xdsl.ir import (
    Attribute,
    Block,
    Region,
    SSAValue,
)
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    irdl_op_definition,
    opt_prop_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.traits import IsTerminator, MemoryWriteEffect, Pure, SymbolOpInterface
from xdsl.utils.exceptions import VerifyException

from mpkir.dialects.event import EdgeAttr
from mpkir.dialects.task.buffers import BufferKind, buffer_of, is_mine, layout_of, memref_type_of
from mpkir.dialects.task.exchanges import layout_among_all, scatter_of, scattered
from mpkir.dialects.task.regions import RegionAttr
from mpkir.dialects.task.streams import StreamAttr


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
        for value in reads:
            if is_mine(value) or scatter_of(value) is not None:
                raise VerifyException(
                    f"grid @{self.sym_name.data} reads through mpk_task."
                    f"{'mine' if is_mine(value) else 'scatter'}, which is written only"
                )
            scatter = scattered(buffer_of(value))
            if scatter is not None and layout_among_all(scatter, memref_type_of(value)) is None:
                raise VerifyException(
                    f"grid @{self.sym_name.data} reads {value.type} of {buffer_of(value).sym}, of "
                    "which a dimension goes on behind the end of a rank's part"
                )
        for value in writes:
            type = memref_type_of(value)
            is_sent = is_mine(value) or scatter_of(value) is not None
            if buffer_of(value).exchange is not None and not is_sent:
                raise VerifyException(
                    f"grid @{self.sym_name.data} writes the exchange buffer "
                    f"{buffer_of(value).sym} in its own memory only; a rank's row is written "
                    "through mpk_task.mine or mpk_task.scatter"
                )
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
