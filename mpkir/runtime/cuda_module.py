"""A cubin loaded on a GPU: its functions and variables, and errors of the driver as people read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mpkir.errors import MpkirError
from mpkir.runtime.table import Table

ALIGNMENT = 16
"""Bytes to which buffers must be aligned: kernels read 16 bytes at once."""

_NO_GPU = 'run it on a machine with an NVIDIA GPU and its driver, or compile with target="cpu"'


class CudaModule:
    """A loaded cubin, in the context that torch uses on `device`.

    binary   a cubin, or the path of one

    Raises MpkirError if it is damaged or for another GPU, or the driver's bindings are missing.
    """

    def __init__(self, binary: Path | bytes, device: torch.device) -> None:
        self.driver = driver_bindings()
        self.device = device
        with torch.cuda.device(device):
            torch.cuda.current_stream().synchronize()  # makes torch's context the current one
            self._load(binary if isinstance(binary, bytes) else binary.read_bytes())

    def _load(self, binary: bytes) -> None:
        driver = self.driver
        status, self._module = driver.cuModuleLoadData(binary)
        if status == driver.CUresult.CUDA_ERROR_NO_BINARY_FOR_GPU:
            raise MpkirError(
                f"the kernel was not compiled for this GPU ({name_of(self.device)})",
                hint=f'compile it again for "{arch_of(self.device)}"',
            )
        if status == driver.CUresult.CUDA_ERROR_INVALID_IMAGE:
            raise MpkirError("the kernel's binary is damaged", hint="compile it again")
        self.call("load the kernel", (status,))

    @property
    def handle(self) -> int:
        """The module as a CUmodule, for other libraries."""
        return int(self._module)

    def function(self, name: str) -> Any:
        """A kernel by its name."""
        return self.call(
            f"find {name}", self.driver.cuModuleGetFunction(self._module, name.encode())
        )

    def read_global(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a variable; MpkirError if there is none of that name."""
        address, size = self.call(
            f"find {name}", self.driver.cuModuleGetGlobal(self._module, name.encode())
        )
        data = np.zeros(int(size), dtype=np.uint8)
        self.call(f"read {name}", self.driver.cuMemcpyDtoH(data.ctypes.data, address, int(size)))
        return data

    def write_global(self, name: str, data: bytes) -> None:
        """Fill a variable; MpkirError if there is none of that name and size."""
        address, size = self.call(
            f"find {name}", self.driver.cuModuleGetGlobal(self._module, name.encode())
        )
        if int(size) != len(data):
            raise MpkirError(f"{name} of the kernel has {int(size)} bytes, not {len(data)}")
        self.call(f"write {name}", self.driver.cuMemcpyHtoD(address, data, len(data)))

    def facts(self) -> list[int]:
        """`mpk_facts` of include/mpk/runtime.cuh."""
        return self.read_global("mpk_facts").view(np.int32).tolist()

    def resident(self, function: Any, threads: int, shared_bytes: int) -> int:
        """How many blocks of a kernel the GPU holds at once; reserves the shared memory for them.

        Raises MpkirError if a block needs more shared memory than there is.
        """
        driver = self.driver
        attribute = driver.CUdevice_attribute
        allowed = self.attribute(attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        if shared_bytes > allowed:
            raise MpkirError(
                f"the kernel needs {shared_bytes} bytes of shared memory, "
                f"{name_of(self.device)} has {allowed}",
                hint=f'compile it again for "{arch_of(self.device)}"',
            )
        self.set_attribute(
            function,
            driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
            shared_bytes,
        )
        each = self.call(
            "ask for the kernel's occupancy",
            driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(function, threads, shared_bytes),
        )
        return each * self.processors

    def launch_config(self, blocks: int, threads: int, shared_bytes: int, *, together: bool) -> Any:
        """How to launch a kernel; its `hStream` is still to be set.

        together   refuse it unless all blocks can run at the same time
        """
        driver = self.driver
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = blocks, 1, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
        config.sharedMemBytes = shared_bytes
        if together:
            attribute = driver.CUlaunchAttribute()
            attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
            attribute.value.cooperative = 1
            config.attrs, config.numAttrs = [attribute], 1
        return config

    @property
    def processors(self) -> int:
        """SMs of the GPU."""
        attribute = self.driver.CUdevice_attribute
        return self.attribute(attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)

    def set_attribute(self, function: Any, which: Any, value: int) -> None:
        """Set an attribute of a kernel."""
        self.call("set up the kernel", self.driver.cuFuncSetAttribute(function, which, value))

    def attribute(self, which: Any) -> int:
        """An attribute of the device."""
        return self.call(
            "ask the device", self.driver.cuDeviceGetAttribute(which, self.device.index or 0)
        )

    def call(self, what: str, result: tuple[Any, ...]) -> Any:
        """The values of a driver call's result; MpkirError unless it succeeded."""
        status, *values = result
        if status != self.driver.CUresult.CUDA_SUCCESS:
            _, text = self.driver.cuGetErrorString(status)
            message = text.decode() if text else status.name
            raise MpkirError(f"the CUDA driver could not {what}: {message}")
        return values[0] if len(values) == 1 else tuple(values)


def current_stream(device: torch.device) -> int:
    """The handle of torch's current stream alone: to make its object takes longer than a launch."""
    return torch._C._cuda_getCurrentRawStream(device.index)


def arch_of(device: torch.device) -> str:
    """What to compile for on this GPU, e.g. "sm_90a"."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}{'a' if major >= 9 else ''}"


def name_of(device: torch.device) -> str:
    """What the GPU is called."""
    return torch.cuda.get_device_name(device)


def driver_bindings() -> Any:
    """The driver's API. Raises MpkirError if its bindings are not installed."""
    try:
        from cuda.bindings import driver  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError as error:
        raise MpkirError(
            "cuda-bindings is not installed", hint="pip install cuda-bindings"
        ) from error
    return driver


def device_of(buffers: Sequence[torch.Tensor], table: Table) -> torch.device:
    """The GPU that a program's buffers are on. Raises MpkirError if they cannot be used there."""
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
