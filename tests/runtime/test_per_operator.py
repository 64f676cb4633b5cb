"""What the host does to run a program of one kernel for each operator, with a driver that only
notes what it is asked for."""

from __future__ import annotations

import ctypes
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mpkir.errors import MpkirError
from mpkir.runtime import per_operator
from mpkir.runtime.per_operator import BATCH, OperatorArgs, PerOperatorProgram, State
from mpkir.runtime.table import Table, TableNames, build_table

driver = pytest.importorskip("cuda.bindings.driver")


class Driver:
    """Graphs are lists of (launch configuration, arguments); steps that are replayed are counted on
    the host, as the last kernel of a step would."""

    def __init__(self, memory: dict[int, torch.Tensor]) -> None:
        self.memory = memory
        self.captured: list[tuple[Any, Any, OperatorArgs]] = []
        self.replayed: list[int] = []
        self.stops_in = 10**9

    def __getattr__(self, name: str) -> Any:
        return getattr(driver, name)  # enumerations and structures are the real ones

    def cuStreamCreate(self, flags: Any) -> Any:
        return driver.CUresult.CUDA_SUCCESS, driver.CUstream(0)

    def cuStreamDestroy(self, stream: Any) -> Any:
        return (driver.CUresult.CUDA_SUCCESS,)

    def cuStreamBeginCapture(self, stream: Any, mode: Any) -> Any:
        self.captured = []
        return (driver.CUresult.CUDA_SUCCESS,)

    def cuLaunchKernelEx(self, config: Any, function: Any, parameters: int, extra: int) -> Any:
        address = ctypes.cast(parameters, ctypes.POINTER(ctypes.c_void_p))[0]
        args = OperatorArgs.from_buffer_copy(ctypes.string_at(address, ctypes.sizeof(OperatorArgs)))
        self.captured.append((config, function, args))
        return (driver.CUresult.CUDA_SUCCESS,)

    def cuStreamEndCapture(self, stream: Any) -> Any:
        return driver.CUresult.CUDA_SUCCESS, self.captured

    def cuGraphInstantiate(self, graph: Any, flags: int) -> Any:
        return driver.CUresult.CUDA_SUCCESS, graph

    def cuGraphDestroy(self, graph: Any) -> Any:
        return (driver.CUresult.CUDA_SUCCESS,)

    def cuGraphLaunch(self, graph: Any, stream: Any) -> Any:
        steps = sum(args.last for _, _, args in graph)
        self.replayed.append(steps)
        (state,) = self.memory.values()
        if sum(self.replayed) >= self.stops_in:
            state[0] = min(int(state[0]), self.stops_in)
        return (driver.CUresult.CUDA_SUCCESS,)


class Module:
    """A cubin of two kernels, the second of which streams."""

    processors = 4
    kernels = ((256, 64, 0, 0), (352, 1000, 1, 0))

    def __init__(self, memory: dict[int, torch.Tensor]) -> None:
        self.driver = Driver(memory)

    def facts(self) -> list[int]:
        return [0, 352, 1000, 1, 0, 0, 0, len(self.kernels)]

    def read_global(self, name: str) -> Any:
        assert name == "mpk_operators"
        return np.array(self.kernels, np.int32).view(np.uint8)

    def function(self, name: str) -> str:
        return name

    def resident(self, function: str, threads: int, shared_bytes: int) -> int:
        return {"mpk_run_0": 16, "mpk_run_1": 8}[function]

    def set_attribute(self, function: str, which: Any, value: int) -> None:
        assert value == 100

    def call(self, what: str, result: tuple[Any, ...]) -> Any:
        status, *values = result
        assert status == driver.CUresult.CUDA_SUCCESS
        return values[0] if values else ()


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Module:
    memory: dict[int, torch.Tensor] = {}
    fake = Module(memory)
    cpu = torch.device("cpu")
    zeros = torch.zeros

    def noted(*args: Any, **kwargs: Any) -> torch.Tensor:
        result = zeros(*args, **kwargs)
        memory[0] = result
        return result

    stream = SimpleNamespace(cuda_stream=0)
    event = SimpleNamespace(record=lambda stream: None, synchronize=lambda: None)
    cuda = SimpleNamespace(
        device=lambda device: nullcontext(),
        current_stream=lambda device: stream,
        get_device_capability=lambda device: (9, 0),
        Event=lambda: event,
    )
    monkeypatch.setattr(per_operator, "device_of", lambda buffers, table: cpu)
    monkeypatch.setattr(per_operator, "CudaModule", lambda binary, device: fake)
    monkeypatch.setattr(
        per_operator,
        "torch",
        SimpleNamespace(
            cuda=cuda,
            zeros=noted,
            empty=lambda *args, **kwargs: torch.zeros((), dtype=torch.int32),
            frombuffer=torch.frombuffer,
            int32=torch.int32,
        ),
    )
    return fake


def table(bodies: tuple[str, ...] = ("plain", "stream")) -> Table:
    """Three tasks that stream, then 20 that do not, then one."""
    families = [(1, 3, 8, 1, 0, 1), (0, 20, 0, 0, 1, 0), (0, 1, 0, 0, 0, 1)]
    names = TableNames(("x", "y"), bodies, ("first", "second", "third"), ())
    rows = [(f, i, -1, 0, 0, -1, 0) for f, row in enumerate(families) for i in range(row[1])]
    return build_table([rows], families, [], names)


def buffers() -> list[torch.Tensor]:
    return [torch.zeros(4), torch.zeros(8)]


def test_a_graph_has_the_kernels_of_its_steps(module: Module) -> None:
    tensors = buffers()
    PerOperatorProgram(b"", table(), tensors, steps=2)
    assert len(module.driver.captured) == 6
    PerOperatorProgram(b"", table(), tensors, steps=1)
    one = module.driver.captured
    assert [(args.first, args.last) for _, _, args in one] == [(1, 0), (0, 0), (0, 1)]
    assert [function for _, function, _ in one] == ["mpk_run_1", "mpk_run_0", "mpk_run_0"]
    # At most one block for an SM where weights are streamed, else as many as fit on half of it.
    assert [config.gridDimX for config, _, _ in one] == [3, 8, 1]
    assert [config.blockDimX for config, _, _ in one] == [352, 256, 256]
    assert [config.sharedMemBytes for config, _, _ in one] == [1000, 64, 64]
    assert [args.tasks for _, _, args in one] == [3, 20, 1]
    # All but a graph's first start while the one before runs.
    assert [config.numAttrs for config, _, _ in one] == [0, 1, 1]
    (attribute,) = one[1][0].attrs
    kinds = driver.CUlaunchAttributeID
    assert attribute.id == kinds.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    x, y = (tensor.data_ptr() for tensor in tensors)
    assert [args.operand[:3] for _, _, args in one] == [[x, y, None], [y, x, None], [x, y, None]]
    (state,) = module.driver.memory.values()
    assert {args.launch.control for _, _, args in one} == {state.data_ptr()}
    progress = state.data_ptr() + State.progress.offset
    assert {args.progress for _, _, args in one} == {progress}


def test_a_run_is_whole_graphs_and_single_steps(module: Module) -> None:
    program = PerOperatorProgram(b"", table(), buffers(), steps=8)
    assert program.run(5, 19) == 19
    assert module.driver.replayed == [1, 1, 1, 8, 8]
    (state,) = module.driver.memory.values()
    left = State.from_buffer_copy(state.numpy().tobytes())
    assert (left.control.stop_at, left.control.fault) == (19, 0)
    assert (left.progress.position, left.progress.step, left.progress.arrived) == (5, 0, 0)


def test_a_run_that_stops_is_not_replayed_to_its_end(module: Module) -> None:
    program = PerOperatorProgram(b"", table(), buffers(), steps=1)
    module.driver.stops_in = BATCH + 3
    assert program.run(0, 10 * BATCH) == BATCH + 3
    # The look behind the second batch sees it, when a third waits already.
    assert len(module.driver.replayed) == 3 * BATCH
    module.driver.replayed.clear()
    module.driver.stops_in = 10**9
    assert program.run(0, 5 * BATCH + 1) == 5 * BATCH + 1
    assert len(module.driver.replayed) == 5 * BATCH + 1


def test_a_binary_of_another_table(module: Module) -> None:
    with pytest.raises(MpkirError, match="the binary has 2 kernels, the table 3 bodies"):
        PerOperatorProgram(b"", table(("plain", "stream", "third")), buffers())
