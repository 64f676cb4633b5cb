"""`mpk-opt -t mpk-cuda`: the CUDA C++ of a scheduled module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.target import Target

from mpkir.backends.body import bodies_of
from mpkir.backends.cuda.emit import emit
from mpkir.backends.table import workers_of
from mpkir.machine import machine_named


@dataclass(frozen=True)
class CudaTarget(Target):
    """Prints a scheduled module as one .cu, with the shared memory and ring of `machine`."""

    name = "mpk-cuda"

    machine: str = "h100"
    tokens_per_step: int = 1

    def emit(self, ctx: Context, module: ModuleOp, output: IO[str]) -> None:
        machine = machine_named(self.machine, workers=workers_of(module))
        output.write(emit(bodies_of(module), machine, self.tokens_per_step))
