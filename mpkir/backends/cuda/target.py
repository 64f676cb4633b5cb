"""`mpk-opt -t mpk-cuda`: the CUDA C++ of a tiled module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.target import Target

from mpkir.backends.body import bodies_of
from mpkir.backends.cuda.emit import emit
from mpkir.errors import MpkirError
from mpkir.machine import machine_named


@dataclass(frozen=True)
class CudaTarget(Target):
    """Prints a tiled module as one .cu, with the shared memory and ring of `machine`.

    Who runs which task stands in the table, so the module needs no schedule.
    """

    name = "mpk-cuda"

    machine: str = "h100"
    tokens_per_step: int = 1

    def emit(self, ctx: Context, module: ModuleOp, output: IO[str]) -> None:
        bodies = bodies_of(module)
        if not bodies:
            raise MpkirError("the module has no tasks", hint="run mpk-partition-tiles before")
        output.write(emit(bodies, machine_named(self.machine), self.tokens_per_step))
