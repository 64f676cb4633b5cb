"""Runs what the CUDA printer writes: without a GPU on sequential stand-ins of the skeletons."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from xdsl.dialects.builtin import ModuleOp

from mpkir.backends.body import bodies_of
from mpkir.backends.cuda.emit import emit
from mpkir.backends.table import Buffer, buffers_of, table_of
from mpkir.machine import Machine
from mpkir.runtime import manifest as runtime
from mpkir.runtime.buffers import allocate, packed
from mpkir.runtime.build_cuda import build_cuda
from mpkir.runtime.cuda import CudaProgram
from mpkir.runtime.cuda_module import arch_of

_HOST = Path(__file__).parent / "host"


def _memory_of(buffer: Buffer, device: torch.device) -> torch.Tensor:
    """New memory for a buffer of a module."""
    kind = "state" if buffer.kind == "state" else "scratch"
    spec = runtime.Buffer(
        buffer.name,
        kind,
        buffer.dtype,
        buffer.shape,
        initial=buffer.initial if kind == "state" else None,
        flagged=buffer.flagged,
        brief=buffer.brief,
        apart=buffer.apart,
        planes=buffer.planes,
        panels=0 if buffer.panels is None else buffer.panels.group,
        columns=0 if buffer.panels is None else buffer.panels.columns,
    )
    return allocate(spec, device)


def _with_joined(
    tensors: Mapping[str, torch.Tensor], joined: Mapping[str, Sequence[tuple[str, object, object]]]
) -> dict[str, torch.Tensor]:
    """The tensors, and what those of which all parts are among them look like joined."""
    result = dict(tensors)
    for name, parts in joined.items():
        if all(part in tensors for part, *_ in parts):
            result[name] = torch.cat([tensors[part] for part, *_ in parts])
    return result


class HostProgram:
    """A scheduled module printed as CUDA and run task by task, family after family."""

    def __init__(self, module: ModuleOp, machine: Machine, folder: Path, tokens: int = 1) -> None:
        source = emit(bodies_of(module), machine, tokens)
        (folder / "kernel.cpp").write_text(
            '#include "stand_in.hpp"\n' + re.sub(r"#include <mpk/.*>\n", "", source)
        )
        command = ["c++", "-std=c++17", "-O1", "-shared", "-fPIC", f"-I{_HOST}"]
        library = folder / "kernel.so"
        subprocess.run([*command, "-o", str(library), str(folder / "kernel.cpp")], check=True)
        self._run_task = ctypes.CDLL(str(library)).run_task
        self.table, self.tokens = table_of(module), tokens
        self.buffers = {b.name: _memory_of(b, torch.device("cpu")) for b in buffers_of(module)}
        self._packed = {b.name for b in buffers_of(module) if b.packed}
        self._joined = {b.name: b.parts for b in buffers_of(module) if b.parts}

    def bind(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Give buffers their contents."""
        for name, tensor in _with_joined(tensors, self._joined).items():
            if name in self.buffers:
                assert self.buffers[name].shape == tensor.shape
                lying = packed(tensor) if name in self._packed else tensor
                self.buffers[name] = lying.to(self.buffers[name].dtype).contiguous()

    def run(self, position: int, steps: int) -> int:
        """Run up to `steps` steps; how many were done."""
        stop_at = ctypes.c_int(steps)
        pointers = [tensor.data_ptr() for tensor in self.buffers.values()]
        step = 0
        while step < stop_at.value:
            at = ctypes.c_longlong(position + step * self.tokens)
            for number, family in enumerate(self.table.families):
                operands = [pointers[b] for b in self.table.operands(number)]
                array = (ctypes.c_void_p * 12)(*operands)
                for index in range(int(family[1])):
                    self._run_task(int(family[0]), index, array, at, step, ctypes.byref(stop_at))
            step += 1
        return stop_at.value


class GpuProgram:
    """The same module built and run as it is meant to be, with the interface of HostProgram."""

    def __init__(self, module: ModuleOp, machine: Machine, tokens: int = 1) -> None:
        source = emit(bodies_of(module), machine, tokens)
        self._binary = build_cuda(source, arch_of(torch.device("cuda", 0)))
        self._table = table_of(module)
        self.buffers = {b.name: _memory_of(b, torch.device("cuda")) for b in buffers_of(module)}
        self._flagged = [n for n, b in enumerate(buffers_of(module)) if b.flagged]
        self._packed = {b.name for b in buffers_of(module) if b.packed}
        self._joined = {b.name: b.parts for b in buffers_of(module) if b.parts}

    def bind(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Give buffers their contents."""
        for name, tensor in _with_joined(tensors, self._joined).items():
            if name in self.buffers:
                self.buffers[name].copy_(packed(tensor) if name in self._packed else tensor)

    def run(self, position: int, steps: int) -> int:
        """Run up to `steps` steps; how many were done."""
        for number, buffer in enumerate(self.buffers.values()):
            if number in self._flagged:
                buffer.zero_()  # a new program counts its steps from 0
        program = CudaProgram(
            self._binary,
            self._table,
            list(self.buffers.values()),
            watchdog_s=2,
            flagged={number: () for number in self._flagged},
        )
        return program.run(position, steps)


@pytest.fixture
def on_gpu() -> Callable[..., GpuProgram]:
    """A function (module, machine, tokens=1) -> GpuProgram."""
    return GpuProgram


@pytest.fixture
def on_host(tmp_path: Path) -> Callable[..., HostProgram]:
    """A function (module, machine, tokens=1) -> HostProgram."""

    def make(module: ModuleOp, machine: Machine, tokens: int = 1) -> HostProgram:
        return HostProgram(module, machine, Path(mkdtemp(dir=tmp_path)), tokens)

    return make
