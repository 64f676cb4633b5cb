"""Where a body's operands are: addresses of their elements, and statements that store one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mpkir.backends.body import Body, Operand
from mpkir.backends.cuda.address import affine, in_panels, is_zero, operand_type
from mpkir.backends.offsets import clipped
from mpkir.dialects import task
from mpkir.errors import MpkirError

DEVICE = "MPK_MEMBER"
WORK = "const mpk::Work& w"


@dataclass
class OperandPrinter:
    """Members of a body's struct that say where its operands are; `lines` are those printed so far.

    Operands are called by number: those that are read, then those that are written.
    """

    body: Body
    lines: list[str] = field(default_factory=list[str])
    pointers: set[int] = field(default_factory=set[int])
    """Operands whose address function is printed."""

    def __post_init__(self) -> None:
        inner = 1
        for dim in reversed(range(len(self.body.grid))):
            quotient = "index" if inner == 1 else f"index / {inner}"
            value = quotient if dim == 0 else f"{quotient} % {self.body.grid[dim]}"
            value = "0" if self.body.grid[dim] == 1 else value
            self.lines.append(f"{DEVICE} int c{dim}(int index) {{ return {value}; }}")
            inner *= self.body.grid[dim]

    def is_weight(self, number: int) -> bool:
        """Whether an operand is a parameter, which is never written."""
        op = self.body.op
        if number >= len(op.reads):
            return False
        return task.buffer_of(op.reads[number]).kind.data is task.BufferKind.WEIGHT

    def is_updated_in_place(self, read: int, write: int) -> bool:
        """Whether a read and a written operand (both by number) are one buffer."""
        op = self.body.op
        written = op.writes[write - len(self.body.reads)]
        return task.buffer_of(op.reads[read]) is task.buffer_of(written)

    def pointer(self, number: int, indices: Sequence[str]) -> str:
        """The address of an element of an operand's box."""
        if number not in self.pointers:
            self.pointers.add(number)
            self._define_pointer(number, self.body.operands[number])
        return f"p{number}({', '.join(('w', *indices))})"

    def _define_pointer(self, number: int, operand: Operand) -> None:
        if operand.is_packed:
            self._define_packed_pointer(number, operand)
            return
        terms = [] if operand.row is None else [f"mpk::i64(mpk::own_rank()) * {operand.row}"]
        terms += [str(operand.origin)] if operand.origin else []
        places: dict[int, str] = {}
        for d, (expr, stride, box) in enumerate(
            zip(operand.offsets.results, operand.strides, operand.sizes, strict=True)
        ):
            parts = [] if is_zero(expr) else [affine(expr, "w.index")]
            parts += [f"i{d}"] if box > 1 else []
            if parts and stride:
                scaled = "" if stride == 1 else f" * {stride}"
                place = " + ".join(parts)
                if operand.parts is not None and operand.parts.dim == d:
                    place = f"({place}) % {operand.parts.size}"
                places[d] = place
                terms.append(f"mpk::i64({place}){scaled}")
        element = operand_type(operand)
        offset = " + ".join(terms) or "0"
        if operand.apart:
            offset = f"mpk::apart<{element}, {operand.apart}>({offset})"
        if operand.panels is not None:
            offset = in_panels(operand, operand.panels, places, offset)
        self.lines.append(
            f"{DEVICE} {element}* p{number}({self.parameters(len(operand.sizes))}) "
            f"{{ return w.at<{element}>({number}) + ({offset}); }}"
        )

    def _define_packed_pointer(self, number: int, operand: Operand) -> None:
        if not operand.is_plain:
            raise MpkirError(
                "a packed weight is seen through a view", where=f"family @{self.body.families[0]}"
            )
        place = [
            " + ".join(([] if is_zero(expr) else [affine(expr, "w.index")]) + [f"i{d}"])
            for d, expr in enumerate(operand.offsets.results)
        ]
        element, columns = operand_type(operand), operand.shape[1]
        self.lines.append(
            f"{DEVICE} {element}* p{number}({self.parameters(2)}) {{ return "
            f"w.at<{element}>({number}) + mpk::packed_place<{columns}>({', '.join(place)}); }}"
        )

    @staticmethod
    def parameters(rank: int) -> str:
        return ", ".join((WORK, *(f"int i{d}" for d in range(rank))))

    def inside(self, number: int, indices: Sequence[str]) -> str | None:
        """The condition that an element of an operand's box is in the buffer; None: always."""
        operand = self.body.operands[number]
        conditions = [
            f"{affine(expr, 'w.index')} + {index} < {size}"
            for expr, index, size, over in zip(
                operand.offsets.results,
                indices,
                operand.shape,
                clipped(operand, self.body.grid),
                strict=True,
            )
            if over
        ]
        return " && ".join(conditions) or None

    def store(self, write: int, indices: Sequence[str], value: str) -> str:
        """The statement that stores an element of written operand number `write` (from 0)."""
        number = len(self.body.reads) + write
        place = self.pointer(number, indices)
        operand = self.body.operands[number]
        where, to = "" if operand.row is None else f"_all<{operand.row}>", ""
        if operand.parts is not None:
            divided = operand.parts
            where = f"_part<{operand.row}, {divided.count}>"
            index = f"{affine(operand.offsets.results[divided.dim], 'w.index')} + "
            to = f", ({index}{indices[divided.dim]}) / {divided.size}"
        statement = (
            f"mpk::publish{where}({place}, {value}, w{to});"
            if operand.is_flagged
            else f"mpk::store{where}({place}, {value}{to});"
        )
        condition = self.inside(number, indices)
        return statement if condition is None else f"if ({condition}) {statement}"

    def constant(self, name: str, value: int | float | bool, type: str = "int") -> None:
        """A compile-time constant of the struct."""
        if type == "float":
            text = float_literal(float(value))
        else:
            text = str(value).lower() if isinstance(value, bool) else str(value)
        self.lines.append(f"static constexpr {type} {name} = {text};")

    def method(self, signature: str, *statements: str) -> None:
        """A device function of the struct; `signature` has the return type, name and parameters."""
        self.lines.append(f"{DEVICE} {signature} {{ {' '.join(statements)} }}")


def float_literal(value: float) -> str:
    """A finite float as a C++ literal."""
    text = repr(value)
    return f"{text if '.' in text or 'e' in text else f'{text}.0'}f"
