"""Runs a program with one kernel for each family: a step is a CUDA graph of them, replayed.

Every kernel may start while the one before runs (programmatic dependent launch) and waits for it by
itself (include/mpk/per_operator.cuh). Nothing in a graph changes from step to step: position and
step are counted on the GPU by the last kernel of a step, so the host has only to replay.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpkir.errors import MpkirError
from mpkir.runtime.cuda_module import CudaModule, device_of
from mpkir.runtime.launch import Control, GpuLaunchArgs
from mpkir.runtime.table import MAX_OPERANDS, FamilyField, Table

BATCH = 64
"""Steps that are replayed between two looks at whether the program has stopped."""

STEPS = 8
"""Steps of the larger graph, within which even the next step's first kernel starts early."""


class Progress(ctypes.Structure):
    """Where a run stands: `struct Progress` of include/mpk/per_operator.cuh."""

    _fields_ = (("position", ctypes.c_longlong), ("step", ctypes.c_int), ("arrived", ctypes.c_uint))


class State(ctypes.Structure):
    """What the kernels of a run share."""

    _fields_ = (("control", Control), ("progress", Progress))


class OperatorArgs(ctypes.Structure):
    """A kernel's one argument: `struct OperatorArgs` of include/mpk/per_operator.cuh."""

    _fields_ = (
        ("launch", GpuLaunchArgs),
        ("operand", ctypes.c_void_p * MAX_OPERANDS),
        ("progress", ctypes.c_void_p),
        ("family", ctypes.c_int),
        ("tasks", ctypes.c_int),
        ("first", ctypes.c_int),
        ("last", ctypes.c_int),
    )


@dataclass(frozen=True)
class Launch:
    """One kernel of a step."""

    family: int
    body: int
    blocks: int
    """Block b runs the tasks b, b + blocks, .. of the family."""
    tasks: int
    last: bool
    """Whether the step ends with it."""


@dataclass(frozen=True)
class Kernel:
    """A body's kernel: `struct OperatorFacts` of include/mpk/per_operator.cuh."""

    function: Any
    threads: int
    shared_bytes: int
    most_blocks: int
    """That work at the same time."""


@dataclass(frozen=True)
class Graph:
    """Some steps, one after another."""

    steps: int
    ready: Any
    """What the driver launches."""


def launches_of(table: Table, most_blocks: Sequence[int]) -> tuple[Launch, ...]:
    """The kernels of a step in their order, which is that of the families in the table.

    most_blocks   for each body, how many blocks of its kernel work at the same time
    """
    launches: list[Launch] = []
    for number, row in enumerate(table.families):
        body, tasks = int(row[FamilyField.BODY]), int(row[FamilyField.GRID_SIZE])
        last = number + 1 == len(table.families)
        launches.append(Launch(number, body, min(tasks, most_blocks[body]), tasks, last))
    return tuple(launches)


class PerOperatorProgram:
    """The kernels of a program on the device of its buffers, and graphs of one and several steps.

    binary    a cubin, or the path of one
    buffers   one tensor for each buffer id, in order: contiguous, on one GPU; used in place
    steps     of the larger graph; 1: there is only one
    early     a kernel may start while the one before still runs

    Raises MpkirError if there is no GPU, if the cubin is for another one, or if a buffer is
    misplaced.
    """

    def __init__(
        self,
        binary: Path | bytes,
        table: Table,
        buffers: Sequence[torch.Tensor],
        steps: int = STEPS,
        early: bool = True,
    ) -> None:
        self.table = table
        self.device = device_of(buffers, table)
        self._buffers = tuple(buffers)
        self._module = CudaModule(binary, self.device)
        self._early = early and torch.cuda.get_device_capability(self.device) >= (9, 0)
        self.tokens_per_step = self._module.facts()[3]
        with torch.cuda.device(self.device):
            self._state = torch.zeros(
                ctypes.sizeof(State) // 4, dtype=torch.int32, device=self.device
            )
            kernels = self._kernels()
            launches = launches_of(table, [kernel.most_blocks for kernel in kernels])
            self._one = Graph(1, self._graph(launches, kernels, 1))
            self._many = (
                self._one if steps == 1 else Graph(steps, self._graph(launches, kernels, steps))
            )
        self._left = 0
        self._looks: deque[tuple[torch.Tensor, torch.cuda.Event]] = deque()

    def run(self, position: int, steps: int) -> int:
        """Run up to `steps` steps from token `position` on and wait; the number of steps done.

        It runs on torch's current stream. Raises MpkirError if a kernel fails.
        """
        with torch.cuda.device(self.device):
            self.launch(position, steps)
            return self.finish(steps)

    def launch(self, position: int, steps: int) -> None:
        """Start a run; `finish` must follow before the next launch."""
        state = State(Control(stop_at=steps), Progress(position=position))
        self._state.copy_(torch.frombuffer(bytearray(state), dtype=torch.int32))
        self._left = steps
        self._looks.clear()
        # One batch is always waiting while the host looks at what became of the one before.
        self._replay()
        self._replay()

    def finish(self, steps: int) -> int:
        """Wait for the run of `steps` steps that was launched; the number of steps done."""
        try:
            while self._left:
                stop_at, copied = self._looks.popleft()
                copied.synchronize()
                if int(stop_at) < steps:
                    break
                self._replay()
            return min(int(self._state[0]), steps)
        except RuntimeError as error:
            raise MpkirError(
                f"a kernel failed: {str(error).splitlines()[0]}",
                hint="the GPU's context is lost: start the process again",
            ) from error

    def _replay(self) -> None:
        """The next batch of steps, if there are any left; kernels of steps after a stop return."""
        # What does not fill a batch, and of that what does not fill a large graph, comes first: a
        # small graph is sooner on the GPU, and the large ones are launched while it runs.
        batch = (self._left - 1) % BATCH + 1 if self._left else 0
        self._left -= batch
        stream = torch.cuda.current_stream(self.device)
        many = self._many.steps
        for graph in [self._one] * (batch % many) + [self._many] * (batch // many):
            self._module.call(
                "launch a step",
                self._module.driver.cuGraphLaunch(graph.ready, stream.cuda_stream),
            )
        if self._left:
            stop_at = torch.empty((), dtype=torch.int32, pin_memory=True)
            stop_at.copy_(self._state[0], non_blocking=True)
            copied = torch.cuda.Event()
            copied.record(stream)
            self._looks.append((stop_at, copied))

    def _kernels(self) -> list[Kernel]:
        module = self._module
        attribute = module.driver.CUfunction_attribute
        facts = module.read_global("mpk_operators").view(np.int32).reshape(-1, 4).tolist()
        if len(facts) != len(self.table.names.bodies):
            raise MpkirError(
                f"the binary has {len(facts)} kernels, the table {len(self.table.names.bodies)} "
                "bodies",
                hint="the artifact is damaged: compile it again",
            )
        kernels: list[Kernel] = []
        for body, (threads, shared_bytes, streams, _) in enumerate(facts):
            function = module.function(f"mpk_run_{body}")
            resident = module.resident(function, threads, shared_bytes)
            # All of an SM's memory for shared memory, whatever one kernel needs: it is divided
            # anew only when the SM is idle, and the next kernel is to start before that.
            module.set_attribute(
                function, attribute.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, 100
            )
            # The other half of each SM is for the next kernel's first weights.
            half = max(resident // 2, module.processors)
            most = min(resident, module.processors if streams else half)
            if most < 1:
                raise MpkirError(
                    f"no block of body {self.table.names.bodies[body]!r} fits on an SM",
                    hint="compile it again for this GPU",
                )
            kernels.append(Kernel(function, threads, shared_bytes, most))
        return kernels

    def _graph(self, launches: Sequence[Launch], kernels: Sequence[Kernel], steps: int) -> Any:
        """A graph of so many steps, one after another, ready to be launched."""
        module, driver = self._module, self._module.driver
        flags = driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        stream = module.call("make a stream", driver.cuStreamCreate(flags))
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        try:
            module.call("begin a graph", driver.cuStreamBeginCapture(stream, mode))
            try:
                for number, launch in enumerate(tuple(launches) * steps):
                    self._add(stream, launch, kernels[launch.body], number > 0)
            except MpkirError:
                driver.cuStreamEndCapture(stream)
                raise
            graph = module.call("end a graph", driver.cuStreamEndCapture(stream))
        finally:
            driver.cuStreamDestroy(stream)
        try:
            return module.call("make a graph ready", driver.cuGraphInstantiate(graph, 0))
        finally:
            driver.cuGraphDestroy(graph)

    def _add(self, stream: Any, launch: Launch, kernel: Kernel, follows: bool) -> None:
        """One kernel; `follows`: there is one before it in the graph."""
        driver = self._module.driver
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = launch.blocks, 1, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = kernel.threads, 1, 1
        config.sharedMemBytes = kernel.shared_bytes
        config.hStream = stream
        if follows and self._early:
            attribute = driver.CUlaunchAttribute()
            kinds = driver.CUlaunchAttributeID
            attribute.id = kinds.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            attribute.value.programmaticStreamSerializationAllowed = 1
            config.attrs, config.numAttrs = [attribute], 1
        args = self._arguments(launch)
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(args))
        self._module.call(
            f"add {self.table.names.families[launch.family]} to a graph",
            driver.cuLaunchKernelEx(config, kernel.function, ctypes.addressof(parameters), 0),
        )

    def _arguments(self, launch: Launch) -> OperatorArgs:
        control = self._state.data_ptr()
        pointers = [self._buffers[b].data_ptr() for b in self.table.operands(launch.family)]
        return OperatorArgs(
            launch=GpuLaunchArgs(control=control),
            operand=(ctypes.c_void_p * MAX_OPERANDS)(*pointers),
            progress=control + State.progress.offset,
            family=launch.family,
            tasks=launch.tasks,
            first=int(launch.family == 0),
            last=int(launch.last),
        )
