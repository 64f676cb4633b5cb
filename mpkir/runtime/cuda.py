"""Runs a compiled kernel on a GPU: loads the cubin, binds torch tensors, launches, reads back."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mpkir.errors import MpkirError
from mpkir.runtime.launch import Control, GpuLaunchArgs
from mpkir.runtime.queues import check_serves, dynamic_part, looked_up, queue_words
from mpkir.runtime.table import Ints, Table

THREADS = 352
"""Of one worker: the warps of include/mpk/runtime.cuh."""

ALIGNMENT = 16
"""Bytes to which buffers must be aligned: kernels read 16 bytes at once."""

_NO_GPU = 'run it on a machine with an NVIDIA GPU and its driver, or compile with target="cpu"'
_CONTROL_WORDS = ctypes.sizeof(Control) // 4


class CudaProgram:
    """One kernel on the device of its buffers, with its table and its event counters there.

    binary          a cubin, or the path of one
    buffers         one tensor for each buffer id, in order: contiguous, on one GPU; used in place
    flagged         ids of the buffers whose elements carry the number of the step that wrote them
    watchdog_s      seconds that a task may wait for an event before the launch ends; 0 = for ever

    Raises MpkirError if there is no GPU, if the cubin is for another one, if a buffer is misplaced,
    or if the GPU cannot hold all workers at once.
    """

    def __init__(
        self,
        binary: Path | bytes,
        table: Table,
        buffers: Sequence[torch.Tensor],
        watchdog_s: float = 10.0,
        flagged: Sequence[int] = (),
    ) -> None:
        self.table = table
        self.watchdog_s = watchdog_s
        self.device = _device_of(buffers, table)
        self._buffers = tuple(buffers)
        self._flagged = [buffers[number] for number in flagged]
        self._driver = _driver()
        with torch.cuda.device(self.device):
            torch.cuda.current_stream().synchronize()  # makes torch's context the current one
            self._load(binary if isinstance(binary, bytes) else binary.read_bytes())
            self._check_resident()
            self._arrays = tuple(
                _on_device(array, self.device)
                for array in (table.tasks, table.workers, table.families)
            )
            self._pointers = torch.tensor(
                [tensor.data_ptr() for tensor in buffers] or [0],
                dtype=torch.int64,
                device=self.device,
            )
            self._counters = torch.zeros(
                max(len(table.events), 1), dtype=torch.int32, device=self.device
            )
            self._control = torch.zeros(_CONTROL_WORDS, dtype=torch.int32, device=self.device)
            self._queues = torch.zeros(
                (table.worker_count, queue_words(table)), dtype=torch.int64, device=self.device
            )
            addresses = np.array([tensor.data_ptr() for tensor in buffers], np.uint64)
            self._released = _on_device(table.released, self.device)
            self._dynamic_tasks = _on_device(looked_up(table, addresses), self.device)
        self._dynamic = dynamic_part(table, self._released.data_ptr(), self._queues.data_ptr())
        self._epoch = 0

    def run(self, position: int, steps: int) -> int:
        """Run up to `steps` steps from token `position` on and wait; the number of steps done.

        It runs on torch's current stream. Raises MpkirError if the launch fails or the watchdog
        ends it; the program can be run again then.
        """
        with torch.cuda.device(self.device):
            self.launch(position, steps)
            return self.finish(steps)

    def launch(self, position: int, steps: int) -> None:
        """Start a run; `finish` must follow before the next launch."""
        self._control.copy_(torch.tensor([steps, *[0] * (_CONTROL_WORDS - 1)], dtype=torch.int32))
        tasks, workers, families = self._arrays
        args = GpuLaunchArgs(
            self._pointers.data_ptr(),
            tasks.data_ptr(),
            workers.data_ptr(),
            families.data_ptr(),
            self._counters.data_ptr(),
            self._control.data_ptr(),
            position,
            steps,
            self._epoch,
            int(self.watchdog_s * 1e9),
            self._dynamic,
            self._dynamic_tasks.data_ptr(),
        )
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(args))
        self._call(
            "launch the kernel",
            self._driver.cuLaunchCooperativeKernel(
                self._kernel,
                self.table.worker_count,
                1,
                1,
                self.threads,
                1,
                1,
                self.shared_bytes,
                torch.cuda.current_stream(self.device).cuda_stream,
                ctypes.addressof(parameters),
            ),
        )

    def finish(self, steps: int) -> int:
        """Wait for the run of `steps` steps that was launched; the number of steps done."""
        try:
            control = self._control.tolist()
        except RuntimeError as error:
            raise MpkirError(
                f"the kernel failed: {str(error).splitlines()[0]}",
                hint="the GPU's context is lost: start the process again",
            ) from error
        if control[1] != 0:
            self._counters.zero_()
            self._queues.zero_()
            for buffer in self._flagged:
                buffer.zero_()
            self._epoch = 0
            raise self._fault(control)
        done = min(int(control[0]), steps)
        self._epoch = (self._epoch + done) % 2**32
        return done

    def _fault(self, control: Sequence[int]) -> MpkirError:
        _, _, worker, task, event, seen, wanted, _ = control
        return MpkirError(
            f"worker {worker} waited more than {self.watchdog_s:g} s for event "
            f"{self.table.names.events[event]}, which stands at {seen % 2**32} and should reach "
            f"{wanted % 2**32}",
            where=self.table.waiting_label(task),
            hint="a task that signals the event is missing or stuck; `mpk inspect` shows which",
        )

    def _load(self, binary: bytes) -> None:
        driver = self._driver
        status, self._module = driver.cuModuleLoadData(binary)
        if status == driver.CUresult.CUDA_ERROR_NO_BINARY_FOR_GPU:
            raise MpkirError(
                f"the kernel was not compiled for this GPU ({_name_of(self.device)})",
                hint=f'compile it again for "{arch_of(self.device)}"',
            )
        if status == driver.CUresult.CUDA_ERROR_INVALID_IMAGE:
            raise MpkirError("the kernel's binary is damaged", hint="compile it again")
        self._call("load the kernel", (status,))
        self._kernel = self._call(
            "find mpk_run", driver.cuModuleGetFunction(self._module, b"mpk_run")
        )
        facts = self._read_facts()
        self.threads, self.shared_bytes, self.tokens_per_step = facts[1], facts[2], facts[3]
        check_serves(self.table, bool(facts[6]))

    def read_global(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a variable of the kernel's; MpkirError if it has none of that name."""
        address, size = self._call(
            f"find {name}", self._driver.cuModuleGetGlobal(self._module, name.encode())
        )
        data = np.zeros(int(size), dtype=np.uint8)
        self._call(f"read {name}", self._driver.cuMemcpyDtoH(data.ctypes.data, address, int(size)))
        return data

    def _read_facts(self) -> list[int]:
        return self.read_global("mpk_facts").view(np.int32).tolist()

    def _check_resident(self) -> None:
        """Refuse what cannot run all at once: a worker that never starts is waited for in vain."""
        driver = self._driver
        attribute = driver.CUdevice_attribute
        allowed = self._attribute(attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        if self.shared_bytes > allowed:
            raise MpkirError(
                f"the kernel needs {self.shared_bytes} bytes of shared memory, "
                f"{_name_of(self.device)} has {allowed}",
                hint=f'compile it again for "{arch_of(self.device)}"',
            )
        self._call(
            "reserve shared memory",
            driver.cuFuncSetAttribute(
                self._kernel,
                driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                self.shared_bytes,
            ),
        )
        each = self._call(
            "ask for the kernel's occupancy",
            driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(
                self._kernel, self.threads, self.shared_bytes
            ),
        )
        resident = each * self._attribute(attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
        if self.table.worker_count > resident:
            raise MpkirError(
                f"the program has {self.table.worker_count} workers, {_name_of(self.device)} holds "
                f"{resident} at once",
                hint="compile it again for this GPU",
            )

    def _attribute(self, which: Any) -> int:
        return self._call(
            "ask the device", self._driver.cuDeviceGetAttribute(which, self.device.index or 0)
        )

    def _call(self, what: str, result: tuple[Any, ...]) -> Any:
        """The values of a driver call's result; MpkirError unless it succeeded."""
        status, *values = result
        if status != self._driver.CUresult.CUDA_SUCCESS:
            _, text = self._driver.cuGetErrorString(status)
            message = text.decode() if text else status.name
            raise MpkirError(f"the CUDA driver could not {what}: {message}")
        return values[0] if len(values) == 1 else tuple(values)


def arch_of(device: torch.device) -> str:
    """What to compile for on this GPU, e.g. "sm_90a"."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}{'a' if major >= 9 else ''}"


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device)


def _driver() -> Any:
    try:
        from cuda.bindings import driver  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError as error:
        raise MpkirError(
            "cuda-bindings is not installed", hint="pip install cuda-bindings"
        ) from error
    return driver


def _device_of(buffers: Sequence[torch.Tensor], table: Table) -> torch.device:
    if not torch.cuda.is_available():
        raise MpkirError("there is no GPU here that torch can use", hint=_NO_GPU)
    devices = {tensor.device for tensor in buffers}
    if len(devices) > 1 or any(device.type != "cuda" for device in devices):
        raise MpkirError(
            f"buffers are on {', '.join(sorted(map(str, devices)))}",
            hint="put all of them on one GPU",
        )
    names = table.names.buffers
    if len(buffers) != len(names):
        raise MpkirError(f"the program has {len(names)} buffers, {len(buffers)} were given")
    for name, tensor in zip(names, buffers, strict=True):
        if not tensor.is_contiguous() or tensor.data_ptr() % ALIGNMENT:
            raise MpkirError(
                f"buffer {name!r} is not contiguous and aligned to {ALIGNMENT} bytes",
                hint="hand over tensor.contiguous().clone()",
            )
    if devices:
        return devices.pop()
    return torch.device("cuda", torch.cuda.current_device())


def _on_device(array: Ints, device: torch.device) -> torch.Tensor:
    if array.size == 0:
        return torch.zeros(1, dtype=torch.int32, device=device)
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)
