"""Panels: how activations of many tokens lie in memory, so that polling them takes few requests."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import I64, IntegerAttr, i64
from xdsl.ir import Attribute, ParametrizedAttribute
from xdsl.irdl import irdl_attr_definition, param_def
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

GROUPS = (8, 32)
"""Columns of a panel."""

_ROWS = 8
"""A panel has room for a multiple of so many tokens: of 8 columns of bf16 it is a line of memory.
"""
_BLOCK = 32
"""Columns that a warp multiplies at once; they are whole panels."""


@irdl_attr_definition
class PanelsAttr(ParametrizedAttribute):
    """Elements as tokens by `columns`, in panels of `group` columns, one behind the other. A panel
    has `group` elements of each token, one token behind the other, and room for a multiple of 8
    tokens, which nobody touches where there are fewer.

    So what the lanes of a warp poll together, 8 tokens of a block of 32 columns, are neighbours in
    memory.

    ```mlir
    #mpk_task.panels<8 of 2048>
    ```
    """

    name = "mpk_task.panels"

    group_size: IntegerAttr[I64] = param_def()
    column_count: IntegerAttr[I64] = param_def()

    def __init__(self, group: int | IntegerAttr[I64], columns: int | IntegerAttr[I64]):
        super().__init__(
            IntegerAttr(group, i64) if isinstance(group, int) else group,
            IntegerAttr(columns, i64) if isinstance(columns, int) else columns,
        )

    @property
    def group(self) -> int:
        """Columns of a panel."""
        return self.group_size.value.data

    @property
    def columns(self) -> int:
        """Elements of a token."""
        return self.column_count.value.data

    def rows(self, elements: int) -> int:
        """Tokens that a panel of a buffer of so many elements has room for."""
        return -(-elements // (self.columns * _ROWS)) * _ROWS

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            group = parser.parse_integer()
            parser.parse_keyword("of")
            columns = parser.parse_integer()
        return IntegerAttr(group, i64), IntegerAttr(columns, i64)

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string(f"{self.group} of {self.columns}")

    def verify(self) -> None:
        if self.group not in GROUPS or self.columns < 1 or self.columns % _BLOCK:
            raise VerifyException(
                f"panels are of {' or '.join(map(str, GROUPS))} columns, of a multiple of {_BLOCK} "
                f"in all, not {self.group} of {self.columns}"
            )

    def check_fits(self, shape: Sequence[int], elements: int) -> None:
        """Raise VerifyException unless a buffer has whole tokens."""
        if elements % self.columns:
            raise VerifyException(
                f"a shape of {list(shape)} is no number of tokens of {self.columns} columns each"
            )
