"""How types, tiles and scalar functions are written in the C++ of this backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from xdsl.dialects.builtin import UnknownLoc
from xdsl.ir import Attribute, Block, Operation

from mpkir.backends.body import Operand
from mpkir.backends.offsets import clipped, print_offset
from mpkir.backends.scalar import Spelling, carried_type, print_scalars, storage_type

SPELLING = Spelling(
    round_bf16="mpk::round_bf16", round_f16="mpk::round_f16", functions={"exp": "mpk::exp"}
)


@dataclass(frozen=True)
class Tile:
    """A C++ variable that is a tile: its name, the sizes of its box, its element type.

    `is_fixed`: it is the same, and holds the same, for all tasks of a family in a step.
    """

    name: str
    shape: tuple[int, ...]
    element_type: Attribute
    is_fixed: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


def dims(sizes: Sequence[int]) -> str:
    """Sizes as template arguments; a scalar is a tile of one element."""
    return f"mpk::Dims<{', '.join(map(str, sizes)) or '1'}>"


def bind_operand(name: str, number: int, operand: Operand, grid: Sequence[int], read: bool) -> str:
    """The statement that defines a tile of a body's operand."""
    element = ("const " if read else "") + storage_type(operand.element_type)
    types = [element, dims(operand.sizes), dims(operand.shape)]
    flags = clipped(operand, grid)
    if any(flags) or not operand.is_plain:
        types.append(dims([int(flag) for flag in flags]) if any(flags) else "void")
    if not operand.is_plain:
        types += [dims(operand.strides or (1,)), str(operand.origin)]
    offsets = [print_offset(expr, "g{}".format) for expr in operand.offsets.results] or ["0"]
    buffer = f"operands[{number}]"
    if operand.row is not None:
        buffer = f"mpk::own_row<{element}>({buffer}, mpk_peers, {operand.row})"
    if operand.parts is not None:
        divided = operand.parts
        types = [*types[:3], dims(operand.strides)]
        types += map(str, (divided.dim, divided.size, divided.count))
        first = ", ".join(f"long({offset})" for offset in offsets)
        return f"const mpk::Scattered<{', '.join(types)}> {name}{{{buffer}, {{{first}}}}};"
    return f"const auto {name} = mpk::tile<{', '.join(types)}>({buffer}, {', '.join(offsets)});"


def function(block: Block) -> str:
    """A region of scalar arithmetic as a lambda of its carried arguments."""
    names = [f"a{k}" for k in range(len(block.args))]
    parameters = ", ".join(
        f"{carried_type(arg.type)} {name}" for arg, name in zip(block.args, names, strict=True)
    )
    text = print_scalars(block, names, SPELLING)
    (result,) = text.results
    return f"[]({parameters}) {{ {' '.join((*text.statements, f'return {result};'))} }}"


def where(op: Operation) -> str | None:
    """Where the user's model asked for an operator, if it is known."""
    return None if isinstance(op.location, UnknownLoc) else str(op.location)
