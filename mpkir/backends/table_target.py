"""`mpk-opt -t mpk-table`: the runtime table of a scheduled module as text (docs/table.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.target import Target

from mpkir.backends.table import table_of
from mpkir.runtime.table_text import disassemble


@dataclass(frozen=True)
class TableTarget(Target):
    """Prints what every worker does when; the module has to be scheduled."""

    name = "mpk-table"

    def emit(self, ctx: Context, module: ModuleOp, output: IO[str]) -> None:
        output.write(disassemble(table_of(module)))
