"""What the host does for a launch of a persistent kernel, with a driver that plays the kernel."""

from __future__ import annotations

import ctypes
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mpkir.errors import MpkirError
from mpkir.runtime import cuda
from mpkir.runtime.cuda import CudaProgram
from mpkir.runtime.cuda_module import CudaModule
from mpkir.runtime.launch import Answer, Control, GpuLaunchArgs
from mpkir.runtime.table import Table, TableNames, build_table

driver = pytest.importorskip("cuda.bindings.driver")


class Driver:
    """Runs to the end of each launch, or to `stops_at`, or fails."""

    def __init__(self) -> None:
        self.launches: list[tuple[int, int, int]] = []
        self.stops_at = 10**9
        self.fails = False
        self.places = 0
        """Of each sequence, where it tells tokens: each is the number of its step."""

    def __getattr__(self, name: str) -> Any:
        return getattr(driver, name)  # enumerations and structures are the real ones

    def cuLaunchKernelEx(self, config: Any, function: Any, parameters: int, extra: int) -> Any:
        assert (config.gridDimX, config.blockDimX, config.sharedMemBytes) == (2, 352, 1000)
        assert int(config.hStream) == 7
        assert config.attrs[0].value.cooperative == 1
        address = ctypes.cast(parameters, ctypes.POINTER(ctypes.c_void_p))[0]
        args = GpuLaunchArgs.from_address(address)
        control = Control.from_address(args.control)
        answer = Answer.from_address(control.answer)
        assert (control.stop_at, control.fault) == (2**31 - 1, 0)
        assert (answer.stop_at, answer.fault) == (args.steps, 0)
        self.launches.append((args.position, args.steps, args.epoch))
        self.tell(control, args)
        if self.fails:
            control.fault = answer.fault = 1
            control.fault_event = control.fault_task = 0
        elif self.stops_at < args.steps:
            control.stop_at = answer.stop_at = self.stops_at
        return (driver.CUresult.CUDA_SUCCESS,)

    def tell(self, control: Control, args: GpuLaunchArgs) -> None:
        """As a body does that appends tokens; the second of two sequences has ended."""
        assert bool(control.told) == bool(self.places)
        for step in range(min(args.steps, self.stops_at) if self.places else 0):
            words = (ctypes.c_uint64 * (2 * self.places)).from_address(control.told)
            place, tag = args.position + step + 1, args.epoch + step + 1
            words[place] = tag << 32 | step
            words[self.places + place] = tag << 32 | 0xFFFFFFFE


class Module:
    """Of a cubin."""

    def __init__(self) -> None:
        self.driver = Driver()

    def facts(self) -> list[int]:
        return [0, 352, 1000, 1, 0, 0, 0, 2]

    def function(self, name: str) -> str:
        return name

    def resident(self, function: str, threads: int, shared_bytes: int) -> int:
        return 2

    call = CudaModule.call
    launch_config = CudaModule.launch_config


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Module:
    fake = Module()
    stream = SimpleNamespace(synchronize=lambda: None, query=lambda: True)
    monkeypatch.setattr(cuda, "device_of", lambda buffers, table: torch.device("cpu"))
    monkeypatch.setattr(cuda, "CudaModule", lambda binary, device: fake)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(cuda, "current_stream", lambda device: 7)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    return fake


def table() -> Table:
    """One task for each of two workers; the second waits for the first."""
    names = TableNames(("x",), ("plain",), ("first",), ("e",))
    rows = [[(0, 0, -1, 0, 0, 0, 1)], [(0, 1, 0, 1, 0, -1, 0)]]
    return build_table(rows, [(0, 2, 0, 0, 0)], [1], names)


def test_launches_set_nothing_up_and_go_on_where_one_stopped(module: Module) -> None:
    program = CudaProgram(b"", table(), [torch.zeros(4)])
    assert program.run(3, 10) == 10
    module.driver.stops_at = 4
    assert program.run(13, 10) == 4
    assert program.run(17, 2) == 2
    assert module.driver.launches == [(3, 10, 0), (13, 10, 10), (17, 2, 14)]


def test_after_a_fault_the_program_runs_from_the_start(module: Module) -> None:
    program = CudaProgram(b"", table(), [torch.zeros(4)])
    assert program.run(0, 5) == 5
    module.driver.fails = True
    with pytest.raises(MpkirError, match="waited more than 2 s for event e"):
        program.run(5, 5)
    module.driver.fails = False
    assert program.run(0, 5) == 5
    assert module.driver.launches[-1] == (0, 5, 0)


def test_tokens_are_told_by_their_steps(module: Module) -> None:
    """Nothing is reset between launches, and no word of an earlier one is taken for a later's."""
    module.driver.places = 12
    program = CudaProgram(b"", table(), [torch.zeros(4)], sequences=(2, 12))
    assert program.tells
    for position in (0, 0, 3):
        program.launch(position, 4)
        assert [program.told(step) for step in range(4)] == [[step, -2] for step in range(4)]
        assert program.finish(4) == 4
    module.driver.stops_at = 2
    program.launch(0, 4)
    assert [program.told(step) for step in (1, 2)] == [[1, -2], None]
    assert program.finish(4) == 2
    module.driver.fails, module.driver.stops_at = True, 0
    program.launch(0, 4)
    assert program.told(0) is None
    with pytest.raises(MpkirError, match="event e"):
        program.finish(4)
    # Steps are counted anew: what the first launch told has the same numbers.
    module.driver.fails = False
    program.launch(0, 4)
    assert program.told(0) is None
