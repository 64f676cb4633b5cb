"""One body as a C++ function: tiles of its operands, then a call of a skeleton for each operator.

A value that is yielded is computed where it belongs, in the tile of the written operand; any other
value gets an array in the worker's scratch, floats in fp32, so what is fused in one body is rounded
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from xdsl.dialects.builtin import i64
from xdsl.ir import Attribute, Block, Operation, SSAValue

from mpkir.backends.body import Body
from mpkir.backends.cpu.text import (
    Tile,
    bind_operand,
    dims,
    where,
)
from mpkir.backends.scalar import carried_type, storage_type
from mpkir.dialects import task, tensor
from mpkir.dialects.tensor import element_type_of, shape_of
from mpkir.errors import MpkirError

_ALIGNMENT = 64


@dataclass
class BodyPrinter:
    """Prints one body; holds the C++ names of its values and the scratch given out so far.

    `declarations` come before `calls`, so that calls can be put under a condition.
    """

    body: Body
    declarations: list[str] = field(default_factory=list[str])
    calls: list[str] = field(default_factory=list[str])
    headers: set[str] = field(default_factory=set[str])
    scratch_bytes: int = 0
    tiles: dict[SSAValue, Tile] = field(default_factory=dict[SSAValue, Tile])
    targets: dict[SSAValue, Tile] = field(default_factory=dict[SSAValue, Tile])
    prefetched: list[int] = field(default_factory=list[int])
    """Numbers of the reads that are worth asking for while the task waits."""
    names: int = 0

    def bind(self) -> None:
        """Define the tiles of all operands, and let yielded values be computed in theirs."""
        block, body = self.body.op.body.block, self.body
        for number, operand in enumerate(body.operands):
            read = number < len(body.reads)
            name = f"r{number}" if read else f"w{number - len(body.reads)}"
            is_fixed = read and not any(expr.used_dims() for expr in operand.offsets.results)
            buffer = body.buffer_numbers[number]
            self.declarations.append(bind_operand(name, buffer, operand, body.grid, read))
            tile = Tile(name, operand.sizes, operand.element_type, is_fixed)
            if read:
                self.tiles[block.args[number]] = tile
            else:
                value = self._terminator.operands[number - len(body.reads)]
                if isinstance(value.owner, Operation) and operand.parts is None:
                    self.targets.setdefault(value, tile)

    def store_rest(self) -> None:
        """Copy what is yielded without having been computed in its place, and to the other ranks
        what is theirs too."""
        for number, value in enumerate(self._terminator.operands):
            name = f"w{number}"
            if self.body.writes[number].parts is not None:
                source = self.tiles[value].name
                self.call("peers", f"mpk::scatter_all({name}, {source}, mpk_peers);")
                continue
            if self.tiles[value].name != name:
                self.call("pointwise", f"mpk::copy({name}, {self.tiles[value].name});")
            if self.body.writes[number].row is not None:
                self.call("peers", f"mpk::store_all({name}, mpk_peers);")

    @property
    def _terminator(self) -> Operation:
        last = self.body.op.body.block.last_op
        assert last is not None
        return last

    def call(self, header: str, statement: str) -> None:
        """Add a statement that uses a header: of include/mpk by its name, any other by its path
        in an include directory ("mine/op.hpp")."""
        self.headers.add(header)
        self.calls.append(statement)

    def guard_calls(self, first: int, condition: str) -> None:
        """Make the calls from number `first` on only where a condition holds."""
        guarded = [f"  {call}" for call in self.calls[first:]]
        if guarded:
            self.calls[first:] = [f"if ({condition}) {{", *guarded, "}"]

    def read_number(self, value: SSAValue) -> int | None:
        """Which read a value is; None if it is computed in the body."""
        args = self.body.op.body.block.args
        return args.index(value) if value in args else None

    def fresh_name(self) -> str:
        """A C++ name that nothing has yet."""
        self.names += 1
        return f"t{self.names}"

    def array(self, element: str, count: int, element_bytes: int = 4) -> str:
        """A pointer expression to scratch for `count` elements."""
        offset = self.scratch_bytes
        size = count * element_bytes
        self.scratch_bytes += -(-size // _ALIGNMENT) * _ALIGNMENT
        return f"context.at<{element}>({offset})"

    def result(self, value: SSAValue) -> str:
        """The tile in which a value is to be computed: where it is yielded to, or scratch."""
        tile = self.targets.get(value)
        if tile is None:
            tile = self.scratch_tile(shape_of(value), element_type_of(value))
        self.tiles[value] = tile
        return tile.name

    def scratch_tile(self, shape: Sequence[int], element_type: Attribute) -> Tile:
        """A tile of the worker's own, in the type that its elements are computed in."""
        tile = Tile(self.fresh_name(), tuple(shape), element_type)
        carried = carried_type(element_type)
        pointer = self.array(carried, tile.size, 4 if carried == "float" else 8)
        self.declarations.append(
            f"const auto {tile.name} = mpk::local<{carried}, {dims(shape)}>({pointer});"
        )
        return tile

    def optional(self, value: SSAValue | None) -> str:
        """The tile of an operand that may be missing."""
        return "mpk::None{}" if value is None else self.tiles[value].name

    def print_source(self, op: Operation) -> bool:
        """Print an op that gives run-time scalars; whether it is one."""
        match op:
            case task.IndexOp():
                values, is_fixed = [f"g{op.dim.value.data}"], False
            case tensor.PositionOp():
                (count,) = shape_of(op.result)
                values, is_fixed = [f"context.position + {t}" for t in range(count)], True
            case _:
                return False
        name = self.fresh_name()
        shape = dims(shape_of(op.results[0]))
        self.declarations.append(
            f"const {storage_type(i64)} {name}_values[] = {{{', '.join(values)}}};"
        )
        self.declarations.append(
            f"const auto {name} = mpk::local<const {storage_type(i64)}, {shape}>({name}_values);"
        )
        self.tiles[op.results[0]] = Tile(name, (len(values),), i64, is_fixed)
        return True

    def enter(self, block: Block, arguments: Sequence[SSAValue]) -> None:
        """Let the arguments of a region of tensor ops stand for values outside."""
        for argument, value in zip(block.args, arguments, strict=True):
            self.tiles[argument] = self.tiles[value]

    def refuse(
        self, op: Operation, why: str = "has no form on the CPU", hint: str | None = None
    ) -> MpkirError:
        """The error of an operator that cannot be printed."""
        operands = ", ".join(str(value.type) for value in op.operands)
        results = ", ".join(str(value.type) for value in op.results)
        return MpkirError(
            f"'{op.name}' of ({operands}) -> ({results}) {why}",
            where=where(op) or f"family @{self.body.families[0]}",
            hint=hint,
        )
