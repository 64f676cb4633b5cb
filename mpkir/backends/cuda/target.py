"""`mpk-opt -t mpk-cuda`: the CUDA C++ of a tiled module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.target import Target

from mpkir.backends.body import bodies_of
from mpkir.backends.cuda.emit import emit
from mpkir.backends.cuda.emit_per_operator import emit_per_operator
from mpkir.errors import MpkirError
from mpkir.machine import launched, machine_named


@dataclass(frozen=True)
class CudaTarget(Target):
    """Prints a tiled module as one .cu, with the shared memory and ring of `machine`.

    Who runs which task stands in the table, so the module needs no schedule. With
    `launch=per-operator` each body is a kernel.
    """

    name = "mpk-cuda"

    machine: str = "h100"
    tokens_per_step: int = 1
    launch: str = "persistent"

    def emit(self, ctx: Context, module: ModuleOp, output: IO[str]) -> None:
        bodies = bodies_of(module)
        if not bodies:
            raise MpkirError("the module has no tasks", hint="run mpk-partition-tiles before")
        machine = launched(machine_named(self.machine), self.launch)
        printed = emit_per_operator if machine.launch == "per-operator" else emit
        output.write(printed(bodies, machine, self.tokens_per_step))
