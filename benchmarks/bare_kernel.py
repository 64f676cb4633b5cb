"""A kernel that does nothing but write a word of the host's: what no launch can be shorter than."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from time import perf_counter

import torch

from mpkir.runtime.cuda_module import CudaModule, current_stream

_TEXT = b"""
.version 7.0
.target sm_80
.address_size 64
.visible .entry tell(.param .u64 place, .param .u64 word) {
  .reg .pred %p;
  .reg .b32 %r<3>;
  .reg .b64 %d<2>;
  mov.u32 %r0, %tid.x;
  mov.u32 %r1, %ctaid.x;
  or.b32 %r2, %r0, %r1;
  setp.ne.u32 %p, %r2, 0;
  @%p ret;
  ld.param.u64 %d0, [place];
  ld.param.u64 %d1, [word];
  st.relaxed.sys.global.u64 [%d0], %d1;
  ret;
}
\0"""


class BareKernel:
    """Launched by the driver's call that launches programs, on torch's current stream.

    together   as cooperative launches are: refused unless all blocks can run at once
    """

    def __init__(
        self, device: torch.device, blocks: int, threads: int, shared_bytes: int, *, together: bool
    ) -> None:
        self._module = CudaModule(_TEXT, device)
        self._kernel = self._module.function("tell")
        self._module.resident(self._kernel, threads, shared_bytes)
        self._config = self._module.launch_config(blocks, threads, shared_bytes, together=together)
        self._config.hStream = current_stream(device)
        self._stream = torch.cuda.current_stream(device)
        self._memory = torch.zeros(1, dtype=torch.int64).pin_memory()
        self._seen = ctypes.c_uint64.from_address(self._memory.data_ptr())
        self._arguments = (ctypes.c_uint64 * 2)(self._memory.data_ptr(), 0)
        address = ctypes.addressof(self._arguments)
        self._parameters = (ctypes.c_void_p * 2)(address, address + 8)

    def _launch(self) -> int:
        """Start it; the word that it will write."""
        word = self._arguments[1] = self._arguments[1] + 1
        driver = self._module.driver
        call = driver.cuLaunchKernelEx
        parameters = ctypes.addressof(self._parameters)
        self._module.call("launch the kernel", call(self._config, self._kernel, parameters, 0))
        return word

    def end(self) -> float:
        """Until it is over, microseconds."""
        return self._timed(lambda word: self._stream.synchronize())

    def seen(self) -> float:
        """Until the host sees its word, microseconds."""

        def look(word: int) -> None:
            while self._seen.value != word:
                pass

        elapsed = self._timed(look)
        self._stream.synchronize()
        return elapsed

    def _timed(self, wait: Callable[[int], None]) -> float:
        begun = perf_counter()
        wait(self._launch())
        return (perf_counter() - begun) * 1e6
