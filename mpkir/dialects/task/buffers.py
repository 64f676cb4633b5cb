"""Buffers in global memory and views of them: who owns what, under which shape and strides."""

from __future__ import annotations

from collections.abc import Sequence
from enum import auto
from math import prod
from typing import cast

from xdsl.dialects.builtin import (
    I64,
    BFloat16Type,
    FixedBitwidthType,
    Float16Type,
    Float32Type,
    IntegerAttr,
    MemRefType,
    NoneAttr,
    StridedLayoutAttr,
    StringAttr,
    UnitAttr,
    i64,
)
from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import (
    Attribute,
    Operation,
    SpacedOpaqueSyntaxAttribute,
    SSAValue,
)
from xdsl.irdl import (
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.traits import MemoryWriteEffect, Pure
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.str_enum import StrEnum

from mpkir.dialects.mesh import ranks_around
from mpkir.dialects.parts import PartsAttr
from mpkir.dialects.shards import ShardAttr
from mpkir.dialects.task.panels import PanelsAttr


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


PACKED_ROWS, PACKED_COLUMNS = 8, 32
"""A packed matrix [N, K] lies in memory as [N / 8][K / 32][8][32], of 8 neighbours of a row the
pairs 0, 2, 1 and 3: as tensor cores take it."""


FEW_TOKENS = 2
"""So many rows of x come to a product over packed weights through shared memory; of more, blocks of
columns go straight to the lanes that multiply them (FEW of packed_shape.cuh)."""


def is_packable(shape: Sequence[int]) -> bool:
    """Whether an array of this shape is a whole number of a packed matrix's blocks."""
    return len(shape) == 2 and shape[0] % PACKED_ROWS == 0 and shape[1] % PACKED_COLUMNS == 0


def buffer_of(value: SSAValue) -> BufferOp:
    """The buffer behind a memref value, through views."""
    while not isinstance(owner := value.owner, BufferOp):
        assert isinstance(owner, Operation)
        value = owner.operands[0]
    return owner


def is_mine(value: SSAValue) -> bool:
    """Whether a memref value shows the row of the own rank in every rank's memory."""
    while isinstance(owner := value.owner, ViewOp):
        value = owner.source
    return isinstance(owner, MineOp)


def row_elements(buffer: BufferOp) -> int:
    """Elements of one rank's row of an exchange buffer."""
    return prod(memref_type_of(buffer.result).get_shape()[1:])


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


FLAGGED_TYPES = (BFloat16Type, Float16Type, Float32Type)
"""Types of elements that fit in one word together with the number of a step."""

BRIEF_TYPES = (BFloat16Type, Float32Type)
"""Those that have a bit for it themselves."""

APART = (8, 16, 24, 32, 40, 48, 56)
"""Neighbouring elements that may share a line of memory with no others, if they fit."""

_LINE_BITS = 1024


@irdl_attr_definition
class BufferKindAttr(EnumAttribute[BufferKind], SpacedOpaqueSyntaxAttribute):
    name = "mpk_task.kind"


@irdl_op_definition
class BufferOp(IRDLOperation):
    """A contiguous row-major array in global memory; `initial` fills a state before the first step.

    `exchange`: it lies at the same place of every rank's memory (`mpk.mesh`), and has a row for
    each: row r is what rank r has written, there and in the memories of all others, through
    `mpk_task.mine`, or there only, each rank another part of a value, through `mpk_task.scatter`.
    `donated`: the program writes over the state that it was given, where it lies. `flagged`: every
    element of an activation carries the number of the step that wrote it, so that whoever reads it
    waits for the value itself and needs no event. `brief`: of the number only the last bit, so that
    an element takes no more bytes than a plain one: in place of the last bit of an f32; of a bf16
    in place of the first bit of an exponent that is 64 less, so that only numbers below 2^64 are
    kept (others become NaN), those below 2^-62 less precisely. `apart 8`: groups of 8 neighbouring
    flagged elements begin at lines of memory, so that no two tasks write the same line. `panels`:
    flagged elements of many tokens lie as warps poll them, see PanelsAttr; everything else counts
    elements as if they were row-major. `planes`: brief f32 in panels lies as two of brief bf16, all
    that rounding leaves and behind it all that it loses. `parts`: several tensors of the model
    fill a weight, row after row. `shard`: of a weight, a state or an output each rank has a part.
    `packed`: a matrix of weights lies as blocks of 8 rows by 32 columns, see PACKED_ROWS.

    ```mlir
    %k0 = mpk_task.buffer state "k0" initial 0 donated : memref<1x3x512x64xbf16>
    %sums = mpk_task.buffer scratch "sums" exchange : memref<4x1x4096xf32>
    %h = mpk_task.buffer scratch "h" flagged : memref<1x8192xbf16>
    %x = mpk_task.buffer scratch "x" flagged brief panels <8 of 2048> : memref<8x1x2048xf32>
    %qk = mpk_task.buffer weight "qk" parts <"q" : 64, "k" : 16> : memref<80x64xbf16>
    ```
    """

    name = "mpk_task.buffer"

    kind = prop_def(BufferKindAttr)
    sym = prop_def(StringAttr, prop_name="name")
    initial = prop_def(IntegerAttr[I64], default_value=IntegerAttr(0, i64))
    exchange = opt_prop_def(UnitAttr)
    donated = opt_prop_def(UnitAttr)
    flagged = opt_prop_def(UnitAttr)
    brief = opt_prop_def(UnitAttr)
    apart = opt_prop_def(IntegerAttr[I64])
    panels = opt_prop_def(PanelsAttr)
    planes = opt_prop_def(UnitAttr)
    parts = opt_prop_def(PartsAttr)
    shard = opt_prop_def(ShardAttr)
    packed = opt_prop_def(UnitAttr)
    result = result_def(MemRefType.constr())

    traits = traits_def(MemoryWriteEffect())

    assembly_format = (
        "$kind $name (`initial` $initial^)? (`exchange` $exchange^)? (`donated` $donated^)? "
        "(`flagged` $flagged^)? (`brief` $brief^)? (`apart` $apart^)? "
        "(`panels` $panels^)? (`planes` $planes^)? (`parts` $parts^)? (`shard` $shard^)? "
        "(`packed` $packed^)? "
        "attr-dict `:` type($result)"
    )

    def __init__(
        self,
        kind: BufferKind,
        name: str,
        type: Attribute,
        initial: int = 0,
        *,
        exchange: bool = False,
    ):
        super().__init__(
            properties={
                "kind": BufferKindAttr(kind),
                "name": StringAttr(name),
                "initial": IntegerAttr(initial, i64),
                "exchange": UnitAttr() if exchange else None,
            },
            result_types=[type],
        )

    def verify_(self) -> None:
        if not isinstance(memref_type_of(self.result).layout, NoneAttr):
            raise VerifyException(f"a buffer is row-major, got {self.result.type}")
        if self.exchange is not None:
            self._verify_exchange()
        if self.donated is not None and self.kind.data is not BufferKind.STATE:
            raise VerifyException(f"only a state is donated, not {self.kind.data.value} {self.sym}")
        if self.flagged is not None:
            self._verify_flagged()
        layouts = (self.brief, self.apart, self.panels, self.planes)
        if any(each is not None for each in layouts):
            self._verify_layout()
        if self.parts is not None:
            if self.kind.data is not BufferKind.WEIGHT:
                raise VerifyException(
                    f"only a weight has parts, not {self.kind.data.value} {self.sym}"
                )
            self.parts.check_fills(memref_type_of(self.result).get_shape())
        if self.shard is not None:
            self._verify_shard(self.shard)
        if self.packed is not None:
            self._verify_packed()

    def _verify_exchange(self) -> None:
        if self.kind.data is not BufferKind.SCRATCH:
            raise VerifyException(
                f"ranks exchange activations, not {self.kind.data.value} {self.sym}"
            )
        shape, ranks = memref_type_of(self.result).get_shape(), ranks_around(self)
        if len(shape) < 2 or ranks not in (None, shape[0]):
            raise VerifyException(
                f"an exchange buffer has a row for each of {ranks} ranks, got {self.result.type}"
            )

    def _verify_shard(self, shard: ShardAttr) -> None:
        if self.parts is not None or self.kind.data in (BufferKind.INPUT, BufferKind.SCRATCH):
            raise VerifyException(
                f"of weights, states and outputs a rank has shards, of a joined weight each part; "
                f"not of {self.kind.data.value} {self.sym}"
            )
        shard.check(self, memref_type_of(self.result).get_shape(), self.sym.data)
        if shard.pieces and self.kind.data is not BufferKind.WEIGHT:
            raise VerifyException(f"only a weight is a shard in pieces, not {self.sym}")

    def _verify_packed(self) -> None:
        shape = memref_type_of(self.result).get_shape()
        if self.kind.data is not BufferKind.WEIGHT or not is_packable(shape):
            raise VerifyException(
                f"only a weight of a multiple of {PACKED_ROWS} rows and {PACKED_COLUMNS} columns "
                f"is packed, not {self.kind.data.value} {self.sym} of {self.result.type}"
            )

    def _verify_flagged(self) -> None:
        if self.kind.data is not BufferKind.SCRATCH:
            raise VerifyException(
                f"only a scratch buffer is flagged, not {self.kind.data.value} {self.sym}"
            )
        element = memref_type_of(self.result).get_element_type()
        if not isinstance(element, FLAGGED_TYPES):
            raise VerifyException(
                f"elements of a flagged buffer are bf16, f16 or f32, not {element}"
            )

    def _verify_layout(self) -> None:
        if self.flagged is None or self.exchange is not None:
            raise VerifyException(
                f"only flagged buffers of one rank are brief, apart or in panels, not {self.sym}"
            )
        type = memref_type_of(self.result)
        if self.panels is not None:
            if self.apart is not None:
                raise VerifyException(f"what lies in panels does not lie apart, as {self.sym} does")
            self.panels.check_fits(type.get_shape(), prod(type.get_shape()))
        if self.brief is not None and not isinstance(type.get_element_type(), BRIEF_TYPES):
            raise VerifyException(f"only bf16 and f32 are brief, not {type.get_element_type()}")
        if self.planes is not None and (
            self.panels is None
            or self.brief is None
            or not isinstance(type.get_element_type(), Float32Type)
        ):
            raise VerifyException(f"only brief f32 in panels is in two planes, not {self.sym}")
        apart = 0 if self.apart is None else self.apart.value.data
        element = type.get_element_type()
        assert isinstance(element, FixedBitwidthType)
        word_bits = element.bitwidth * (1 if self.brief is not None else 2)
        if self.apart is not None and (
            apart not in APART or prod(type.get_shape()) % apart or apart * word_bits > _LINE_BITS
        ):
            raise VerifyException(
                f"groups of {apart} elements do not divide {type}, do not fit a line, or are none "
                f"of {', '.join(map(str, APART))}"
            )


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
        if not isinstance(self.source.owner, ViewOp | BufferOp | MineOp):
            raise VerifyException("a view is of a buffer, of a rank's row or of another view")
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
        buffer = buffer_of(self.source)
        mine = is_mine(self.source)
        size = row_elements(buffer) if mine else prod(memref_type_of(buffer.result).get_shape())
        if last >= size:
            whole = f"a row of {buffer.result.type}" if mine else str(buffer.result.type)
            raise VerifyException(f"view reaches element {last} of {whole}, which has {size}")


@irdl_op_definition
class MineOp(IRDLOperation):
    """The row of the own rank of an exchange buffer, in the memory of every rank: what is stored
    there is stored in all of them. Nobody reads through it.

    Strides and offsets of views of it count elements of the row.

    ```mlir
    %own = mpk_task.mine %sums : memref<4x1x4096xf32> to memref<1x4096xf32>
    ```
    """

    name = "mpk_task.mine"

    source = operand_def(MemRefType.constr())
    result = result_def(MemRefType.constr())

    traits = traits_def(Pure())

    assembly_format = "$source attr-dict `:` type($source) `to` type($result)"

    def __init__(self, source: SSAValue):
        super().__init__(operands=[source], result_types=[_row_type(source)])

    def verify_(self) -> None:
        owner = self.source.owner
        if not isinstance(owner, BufferOp) or owner.exchange is None:
            raise VerifyException("a rank's own row is one of an exchange buffer")
        if self.result.type != _row_type(self.source):
            raise VerifyException(
                f"a row of {self.source.type} is {_row_type(self.source)}, not {self.result.type}"
            )


def _row_type(exchange: SSAValue) -> MemRefType[Attribute]:
    type = memref_type_of(exchange)
    return MemRefType(type.get_element_type(), type.get_shape()[1:])


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
