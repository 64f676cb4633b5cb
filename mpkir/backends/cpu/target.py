"""`mpk-opt -t mpk-cpu`: the C++ of a scheduled module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.target import Target

from mpkir.backends.body import bodies_of
from mpkir.backends.cpu.emit import emit
from mpkir.backends.table import workers_of


@dataclass(frozen=True)
class CpuTarget(Target):
    """Prints a scheduled module as C++17, for as many threads as it has workers."""

    name = "mpk-cpu"

    tokens_per_step: int = 1

    def emit(self, ctx: Context, module: ModuleOp, output: IO[str]) -> None:
        output.write(emit(bodies_of(module), workers_of(module), self.tokens_per_step))
