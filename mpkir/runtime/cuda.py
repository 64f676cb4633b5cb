"""Runs a compiled kernel on a GPU: loads the cubin, binds torch tensors, launches, reads back."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mpkir.errors import MpkirError
from mpkir.runtime.buffers import untagged, words_of
from mpkir.runtime.cuda_module import CudaModule, current_stream, device_of, name_of
from mpkir.runtime.hang import WATCHDOG_S, Hang, Missing, Polled, missing_elements
from mpkir.runtime.launch import Control, GpuLaunchArgs, Stand
from mpkir.runtime.manifest import Buffer
from mpkir.runtime.queues import check_serves, dynamic_part, looked_up, queue_words
from mpkir.runtime.ranks.group import LAUNCH_S
from mpkir.runtime.ranks.memory import PeerMemory
from mpkir.runtime.table import Ints, Table
from mpkir.runtime.told import Told

_NEVER = 2**31 - 1


class CudaProgram:
    """One kernel on the device of its buffers, with its table and its event counters there.

    A run is one launch and one wait for the stream: nothing is copied or set up for it, and its
    argument is made once. That it stopped early or failed it tells in memory of the host's, and
    where it `tells`, each token as soon as it is chosen.

    binary          a cubin, or the path of one
    buffers         one tensor for each buffer id, in order: contiguous, on one GPU; used in place
    flagged         the buffers whose elements carry the number of the step that wrote them, and the
                    families that write each
    reads           how many operands each family reads; () if that is not known
    partial         flagged buffers of which a step may write a part only
    watchdog_s      seconds without progress after which the launch ends; 0 = for ever; by default
                    more where it is another rank that may be late
    peers           of a program of several ranks: what it shares with the others
    specs           what the manifest says of the buffers, or nothing if their elements lie together
                    with their whole tags
    sequences       shape of the token sequences that it continues; () if it does not

    Raises MpkirError if there is no GPU, if the cubin is for another one, if a buffer is misplaced,
    or if the GPU cannot hold all workers at once.
    """

    def __init__(
        self,
        binary: Path | bytes,
        table: Table,
        buffers: Sequence[torch.Tensor],
        watchdog_s: float | None = None,
        flagged: Mapping[int, Sequence[int]] | None = None,
        reads: Sequence[int] = (),
        partial: frozenset[int] = frozenset(),
        peers: PeerMemory | None = None,
        specs: Sequence[Buffer] = (),
        sequences: Sequence[int] = (),
    ) -> None:
        self.table = table
        usual = WATCHDOG_S if peers is None else LAUNCH_S
        self.watchdog_s = usual if watchdog_s is None else watchdog_s
        self.device = device_of(buffers, table)
        self._buffers = tuple(buffers)
        self._flagged, self._reads, self._partial = dict(flagged or {}), reads, partial
        self._specs = dict(enumerate(specs))
        self._peers = peers
        with torch.cuda.device(self.device):
            self._module = CudaModule(binary, self.device)
            self._kernel = self._module.function("mpk_run")
            facts = self._module.facts()
            self.threads, self.shared_bytes, self.tokens_per_step = facts[1], facts[2], facts[3]
            check_serves(table, bool(facts[6]))
            self._answers = facts[7] >= 1  # kernels of before leave all in their control
            self.tells = facts[7] >= 2 and len(sequences) > 0 and self.tokens_per_step == 1
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
            self._counters = (
                torch.zeros(max(len(table.events), 1), dtype=torch.int32, device=self.device)
                if peers is None
                else peers.counters
            )
            if peers is not None:
                peers.enter(self._module, table.events.tolist())
            self._stands = torch.zeros(
                table.worker_count * ctypes.sizeof(Stand), dtype=torch.uint8, device=self.device
            )
            self._told = Told(sequences if self.tells else ())
            self._answer = self._told.answer
            control = Control(
                stop_at=_NEVER,
                events=len(table.events),
                stands=self._stands.data_ptr(),
                answer=self._told.answer_address,
                told=self._told.words_address,
            )
            self._fresh = torch.frombuffer(bytearray(control), dtype=torch.int32)
            self._control = torch.empty_like(self._fresh, device=self.device)
            self._start_afresh()
            self._queues = torch.zeros(
                (table.worker_count, queue_words(table)), dtype=torch.int64, device=self.device
            )
            addresses = np.array([tensor.data_ptr() for tensor in buffers], np.uint64)
            self._released = _on_device(table.released, self.device)
            self._dynamic_tasks = _on_device(looked_up(table, addresses), self.device)
        self._args = GpuLaunchArgs(
            self._pointers.data_ptr(),
            *(array.data_ptr() for array in self._arrays),
            self._counters.data_ptr(),
            self._control.data_ptr(),
            dynamic=dynamic_part(table, self._released.data_ptr(), self._queues.data_ptr()),
            dynamic_tasks=self._dynamic_tasks.data_ptr(),
        )
        self._parameters = (ctypes.c_void_p * 1)(ctypes.addressof(self._args))
        self._config = self._module.launch_config(
            table.worker_count, self.threads, self.shared_bytes, together=True
        )
        self._stream: torch.cuda.Stream | None = None
        self._stream_handle = -1
        self._epoch = 0

    def run(self, position: int, steps: int) -> int:
        """Run up to `steps` steps from token `position` on and wait; the number of steps done.

        It runs on torch's current stream. Raises MpkirError if the launch fails or the watchdog
        ends it; the program can be run again then.
        """
        self.launch(position, steps)
        return self.finish(steps)

    def launch(self, position: int, steps: int) -> None:
        """Start a run; `finish` must follow before the next launch."""
        if torch.cuda.current_device() != self.device.index:
            with torch.cuda.device(self.device):
                return self.launch(position, steps)
        stream = current_stream(self.device)
        if stream != self._stream_handle:
            self._stream = torch.cuda.current_stream(self.device)
            self._config.hStream = self._stream_handle = stream
        self._answer.stop_at, self._answer.fault = steps, 0
        args = self._args
        args.position, args.steps, args.epoch = position, steps, self._epoch
        args.watchdog = int(self.watchdog_s * 1e9)
        self._module.call(
            "launch the kernel",
            self._module.driver.cuLaunchKernelEx(
                self._config, self._kernel, ctypes.addressof(self._parameters), 0
            ),
        )

    def told(self, step: int) -> list[int] | None:
        """What a step of the run under way put behind its token in each sequence, once it has.

        None if the run ended before that step: `finish` says how. Only of a program that `tells`.
        """
        place, tag = self._args.position + step + 1, (self._epoch + step + 1) % 2**32
        return self._told.tokens(place, tag, lambda: self._is_over(step))

    def _is_over(self, step: int) -> bool:
        assert self._stream is not None
        if self._answer.stop_at <= step or self._answer.fault != 0:
            return True
        try:
            return self._stream.query()
        except RuntimeError:
            return True  # `finish` meets it too

    def finish(self, steps: int) -> int:
        """Wait for the run of `steps` steps that was launched; the number of steps done."""
        assert self._stream is not None
        try:
            self._stream.synchronize()
            if not self._answers:
                self._answer.stop_at, self._answer.fault = self._control[:2].tolist()
        except RuntimeError as error:
            raise MpkirError(
                f"the kernel failed: {str(error).splitlines()[0]}",
                hint="the GPU's context is lost: start the process again",
            ) from error
        done = min(self._answer.stop_at, steps)
        if self._answer.fault != 0:
            error = self._hang(Control.from_buffer_copy(self._control.cpu().numpy().tobytes()))
            for memory in (self._counters, self._queues, self._stands):
                memory.zero_()
            for buffer in self._flagged:
                self._buffers[buffer].zero_()
            self._start_afresh()
            self._told.forget()
            self._epoch = 0
            raise error
        if done < steps:
            self._start_afresh()
        self._epoch = (self._epoch + done) % 2**32
        return done

    def _start_afresh(self) -> None:
        """Take back that a launch stopped or failed."""
        self._control.copy_(self._fresh)

    def _hang(self, control: Control) -> MpkirError:
        data = self._stands.cpu().numpy().tobytes()
        stands = list((Stand * self.table.worker_count).from_buffer_copy(data))
        rows = {k: prod(spec.shape[1:]) for k, spec in self._specs.items() if spec.exchange}
        polled = None
        if self._flagged:
            polled = Polled(self._missing, self._flagged, self._reads, rows, self._partial)
        arrivals = self._counters if self._peers is None else self._peers.arrivals()
        counters = arrivals.cpu().numpy().view(np.uint32)
        hang = Hang(self.table, control, stands, counters, self._epoch, polled)
        return hang.error(self.watchdog_s)

    def _missing(self, buffer: int, step: int) -> Missing:
        """The elements of a flagged buffer that do not carry the tag of a step of this launch."""
        tag = (self._epoch + step + 1) % 2**32
        spec = self._specs.get(buffer)
        if spec is None:
            return missing_elements(untagged(self._buffers[buffer], tag).numpy())
        late = untagged(words_of(spec, self._buffers[buffer]), tag, spec.brief)
        planes = 2 if spec.planes else 1
        return missing_elements(late.view(planes, -1).any(0).numpy())

    def read_global(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a variable of the kernel's; MpkirError if it has none of that name."""
        return self._module.read_global(name)

    def write_global(self, name: str, data: bytes) -> None:
        """Fill a variable of the kernel's; MpkirError if it has none of that name and size."""
        self._module.write_global(name, data)

    def _check_resident(self) -> None:
        """Refuse what cannot run all at once: a worker that never starts is waited for in vain."""
        resident = self._module.resident(self._kernel, self.threads, self.shared_bytes)
        if self.table.worker_count > resident:
            raise MpkirError(
                f"the program has {self.table.worker_count} workers, {name_of(self.device)} holds "
                f"{resident} at once",
                hint="compile it again for this GPU",
            )


def _on_device(array: Ints, device: torch.device) -> torch.Tensor:
    if array.size == 0:
        return torch.zeros(1, dtype=torch.int32, device=device)
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)
