"""Streams: how weights pass through the shared-memory ring of a worker."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import (
    I64,
    DenseArrayBase,
    IntAttr,
    IntegerAttr,
    i64,
)
from xdsl.ir import (
    ParametrizedAttribute,
)
from xdsl.irdl import (
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
    param_def,
    prop_def,
    traits_def,
)
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.traits import MemoryWriteEffect
from xdsl.utils.exceptions import VerifyException

from mpkir.dialects.task.buffers import PACKED_ROWS


@irdl_attr_definition
class StreamAttr(ParametrizedAttribute):
    """How a task's weights pass through the worker's shared-memory ring.

    `operands`: which reads are streamed, in this order; each task's box of such a buffer is
    contiguous. A stage is `rows` rows of one operand, or, where a row is longer than a slot of the
    ring, one of `parts` equal parts of a row. Of packed weights a stage is 8 rows, or one of
    `parts` equal parts of them.

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
        rows, parts = self.rows.data, self.parts.data
        if rows < 1 or parts < 1 or (parts > 1 and rows not in (1, PACKED_ROWS)):
            raise VerifyException(
                f"a stage is some whole rows, a part of one row, or of {PACKED_ROWS} packed rows"
            )


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
