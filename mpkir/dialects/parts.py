"""Joined weights: the rows of several tensors of the model, one after another."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import I64, ArrayAttr, DenseArrayBase, NoneAttr, StringAttr, i64
from xdsl.ir import Attribute, ParametrizedAttribute
from xdsl.irdl import irdl_attr_definition, param_def
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from mpkir.dialects.shards import ShardAttr


@irdl_attr_definition
class PartsAttr(ParametrizedAttribute):
    """Which tensors a joined weight consists of, and how many rows (indices of dimension 0) of it
    each fills, in their order. A part may be a shard of its tensor: its rows are then those of a
    rank.

    ```mlir
    #mpk_tensor.parts<"q_proj.weight" : 64, "k_proj.weight" : 16>
    #mpk_tensor.parts<"q" : 16 shard <dim 0 of 4>, "k" : 8 shard <dim 0 of 2>, "v" : 16>
    ```
    """

    name = "mpk_tensor.parts"

    names: ArrayAttr[StringAttr] = param_def()
    rows: DenseArrayBase[I64] = param_def()
    sharding: ArrayAttr[ShardAttr | NoneAttr] = param_def()
    """The shard that each is, or none."""

    def __init__(
        self,
        names: Sequence[str] | ArrayAttr[StringAttr],
        rows: Sequence[int] | DenseArrayBase[I64],
        shards: Sequence[ShardAttr | None] | ArrayAttr[ShardAttr | NoneAttr] | None = None,
    ):
        shards = [None] * len(names) if shards is None else shards
        super().__init__(
            names if isinstance(names, ArrayAttr) else ArrayAttr(map(StringAttr, names)),
            rows if isinstance(rows, DenseArrayBase) else DenseArrayBase.from_list(i64, list(rows)),
            shards
            if isinstance(shards, ArrayAttr)
            else ArrayAttr([NoneAttr() if each is None else each for each in shards]),
        )

    @property
    def items(self) -> tuple[tuple[str, int], ...]:
        """Name and rows of each."""
        names = (name.data for name in self.names)
        return tuple(zip(names, map(int, self.rows.get_values()), strict=True))

    @property
    def shards(self) -> tuple[ShardAttr | None, ...]:
        """The shard that each is; None for whole ones."""
        return tuple(each if isinstance(each, ShardAttr) else None for each in self.sharding)

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        def part() -> tuple[str, int, ShardAttr | None]:
            name = parser.parse_str_literal()
            parser.parse_punctuation(":")
            rows = parser.parse_integer()
            if parser.parse_optional_keyword("shard") is None:
                return name, rows, None
            return name, rows, ShardAttr.new(ShardAttr.parse_parameters(parser))

        parts = parser.parse_comma_separated_list(parser.Delimiter.ANGLE, part)
        names, rows, shards = ([part[i] for part in parts] for i in range(3))
        return PartsAttr(names, rows, shards).parameters  # pyright: ignore[reportArgumentType]

    def print_parameters(self, printer: Printer) -> None:
        def part(name: str, rows: int, shard: ShardAttr | None) -> None:
            printer.print_string_literal(name)
            printer.print_string(f" : {rows}")
            if shard is not None:
                printer.print_string(" shard ")
                shard.print_parameters(printer)

        with printer.in_angle_brackets():
            parts = zip(self.items, self.shards, strict=True)
            printer.print_list(parts, lambda each: part(*each[0], each[1]))

    def verify(self) -> None:
        rows = self.rows.get_values()
        if len(rows) != len(self.names.data) or len(rows) < 2 or any(n < 1 for n in rows):
            raise VerifyException(f"a joined weight has several parts of a row or more, got {self}")
        if len(self.sharding) != len(rows):
            raise VerifyException(f"each part is a shard or none, got {self.sharding}")

    def check_fills(self, shape: Sequence[int]) -> None:
        """Raise VerifyException unless the parts together have as many rows as this shape."""
        total = sum(rows for _, rows in self.items)
        if not shape or shape[0] != total:
            raise VerifyException(f"parts of {total} rows do not fill a shape of {list(shape)}")
