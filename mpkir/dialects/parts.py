"""Joined weights: the rows of several tensors of the model, one after another."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import I64, ArrayAttr, DenseArrayBase, StringAttr, i64
from xdsl.ir import Attribute, ParametrizedAttribute
from xdsl.irdl import irdl_attr_definition, param_def
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException


@irdl_attr_definition
class PartsAttr(ParametrizedAttribute):
    """Which tensors a joined weight consists of, and how many rows (indices of dimension 0) of it
    each fills, in their order.

    ```mlir
    #mpk_tensor.parts<"q_proj.weight" : 64, "k_proj.weight" : 16>
    ```
    """

    name = "mpk_tensor.parts"

    names: ArrayAttr[StringAttr] = param_def()
    rows: DenseArrayBase[I64] = param_def()

    def __init__(
        self,
        names: Sequence[str] | ArrayAttr[StringAttr],
        rows: Sequence[int] | DenseArrayBase[I64],
    ):
        super().__init__(
            names if isinstance(names, ArrayAttr) else ArrayAttr(map(StringAttr, names)),
            rows if isinstance(rows, DenseArrayBase) else DenseArrayBase.from_list(i64, list(rows)),
        )

    @property
    def items(self) -> tuple[tuple[str, int], ...]:
        """Name and rows of each."""
        names = (name.data for name in self.names)
        return tuple(zip(names, map(int, self.rows.get_values()), strict=True))

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        def part() -> tuple[str, int]:
            name = parser.parse_str_literal()
            parser.parse_punctuation(":")
            return name, parser.parse_integer()

        parts = parser.parse_comma_separated_list(parser.Delimiter.ANGLE, part)
        return PartsAttr([name for name, _ in parts], [rows for _, rows in parts]).parameters

    def print_parameters(self, printer: Printer) -> None:
        def part(name: str, rows: int) -> None:
            printer.print_string_literal(name)
            printer.print_string(f" : {rows}")

        with printer.in_angle_brackets():
            printer.print_list(self.items, lambda each: part(*each))

    def verify(self) -> None:
        rows = self.rows.get_values()
        if len(rows) != len(self.names.data) or len(rows) < 2 or any(n < 1 for n in rows):
            raise VerifyException(f"a joined weight has several parts of a row or more, got {self}")

    def check_fills(self, shape: Sequence[int]) -> None:
        """Raise VerifyException unless the parts together have as many rows as this shape."""
        total = sum(rows for _, rows in self.items)
        if not shape or shape[0] != total:
            raise VerifyException(f"parts of {total} rows do not fill a shape of {list(shape)}")
