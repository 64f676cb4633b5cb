"""Programs for the CPU: built by the system's C++ compiler, loaded and run through ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mpkir.errors import MpkirError
from mpkir.runtime.cache import cache_directory
from mpkir.runtime.hang import WATCHDOG_S, Hang
from mpkir.runtime.host import cpu_arch, cpu_features
from mpkir.runtime.launch import Control, LaunchArgs, Stand
from mpkir.runtime.queues import check_serves, dynamic_part, queue_words
from mpkir.runtime.ranks.group import LAUNCH_S
from mpkir.runtime.ranks.memory import PeerMemory
from mpkir.runtime.ranks.peers import PEERS
from mpkir.runtime.table import Table

INCLUDE = Path(__file__).parents[1] / "backends" / "cpu" / "include"

# fp32 arithmetic keeps its NaNs and infinities; only the traps and errno of C are given up.
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fopenmp-simd",
    "-fwrapv",
    "-fPIC",
    "-shared",
    "-pthread",
)

_SHOWN_LINES = 8
_ABORTED = 2
"""A fault: the host has ended the launch."""


def find_compiler() -> list[str]:
    """The command of the C++ compiler: $CXX, g++ or clang++; MpkirError if there is none."""
    if own := os.environ.get("CXX"):
        command = shlex.split(own)
        if not command or shutil.which(command[0]) is None:
            raise MpkirError(
                f"$CXX names {own!r}, which is no program here",
                hint="set CXX to a C++17 compiler, or unset it to use g++ or clang++",
            )
        return command
    for name in ("g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise MpkirError(
        "no C++ compiler on this machine, which a program for the CPU needs",
        hint="install g++ or clang++, or set CXX to one",
    )


def build(source: str, include: Sequence[Path] = ()) -> Path:
    """Compile a source text that `mpkir.backends.cpu.emit` printed; the path of the shared object.

    `include`: directories of headers beside this package's own.

    What was built before, with the same skeletons, compiler and CPU, is taken from the cache
    ($MPKIR_CACHE or ~/.cache/mpkir). Raises MpkirError without a compiler or if it refuses it.
    """
    compiler = find_compiler()
    folders = (INCLUDE, *include)
    key = _key(source, compiler, folders)
    folder = cache_directory() / "cpu"
    target = folder / f"{key}.so"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / f"{key}.cpp"
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        written, built = Path(scratch) / "kernel.cpp", Path(scratch) / "kernel.so"
        written.write_text(source, encoding="utf-8")
        command = [*compiler, *FLAGS, *(f"-I{each}" for each in folders)]
        command += ["-o", str(built), str(written)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        os.replace(written, text)
        if done.returncode != 0:
            errors = [line for line in done.stderr.splitlines() if "error" in line]
            shown = "\n".join((errors or done.stderr.splitlines())[:_SHOWN_LINES])
            raise MpkirError(
                f"{compiler[0]} cannot compile the program:\n{shown}",
                where=str(text),
                hint="it needs C++17 with GCC's vector extensions (g++ 12 or clang++ 14 on)",
            )
        os.replace(built, target)
    return target


def _key(source: str, compiler: Sequence[str], folders: Sequence[Path]) -> str:
    """Hash of everything that the shared object depends on."""
    version = subprocess.run(
        [*compiler, "--version"], capture_output=True, text=True, check=False
    ).stdout
    digest = hashlib.sha256()
    parts = (source, *compiler, version, *FLAGS, cpu_arch(), *sorted(cpu_features()))
    headers = [path for folder in folders for path in sorted(folder.rglob("*.hpp"))]
    for part in (*parts, *(header.read_text(encoding="utf-8") for header in headers)):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:32]


class CpuProgram:
    """A shared object with its table, bound to buffers.

    binary_path  what `build` gave, or a copy of it
    buffers      one array for each buffer id, in order: contiguous, in this machine's memory; used
                 in place
    watchdog_s   seconds without a finished task after which the launch ends; 0 = for ever; by
                 default more where it is another rank that may be late
    peers        of a program of several ranks: what it shares with the others

    Raises MpkirError if the binary cannot be loaded or was built for another number of workers, or
    if a buffer is missing or not contiguous.
    """

    def __init__(
        self,
        binary_path: Path,
        table: Table,
        buffers: Sequence[torch.Tensor | npt.NDArray[Any]],
        watchdog_s: float | None = None,
        peers: PeerMemory | None = None,
    ) -> None:
        self.table = table
        usual = WATCHDOG_S if peers is None else LAUNCH_S
        self.watchdog_s = usual if watchdog_s is None else watchdog_s
        self._peers = peers
        self._library = _load(binary_path)
        if (workers := self._library.mpk_workers()) != table.worker_count:
            raise MpkirError(
                f"the binary has {workers} workers, the table {table.worker_count}",
                where=str(binary_path),
                hint="the artifact is damaged: compile it again",
            )
        check_serves(table, _serves_queues(self._library), str(binary_path))
        names = table.names.buffers
        if len(buffers) != len(names):
            raise MpkirError(f"{len(buffers)} buffers for a program that has {len(names)}")
        self._buffers = tuple(buffers)
        addresses = [_address(name, b) for name, b in zip(names, buffers, strict=True)]
        self._pointers = (ctypes.c_void_p * max(1, len(addresses)))(*addresses)
        self._counters = (
            np.zeros(max(1, len(table.events)), np.uint32)
            if peers is None
            else peers.counters.numpy().view(np.uint32)
        )
        self._released = table.released
        self._queues = np.zeros((table.worker_count, queue_words(table)), np.uint64)
        self._dynamic = dynamic_part(table, self._released.ctypes.data, self._queues.ctypes.data)
        self._epoch = 0
        self._control: Control | None = None

    def abort(self) -> None:
        """End the run that is on its way in another thread, if there is one, with an error."""
        control = self._control
        if control is not None:
            control.fault = _ABORTED

    def run(self, position: int, steps: int) -> int:
        """Run up to `steps` steps from token `position` on; the number of steps done.

        Raises MpkirError if nothing goes on for longer than the watchdog allows, and says what
        every worker waits for; the program can be run again then.
        """
        if self._peers is not None:
            # Programs of one binary share its variables.
            self.write_global(PEERS, bytes(self._peers.peers))
        stands = (Stand * self.table.worker_count)()
        control = Control(
            stop_at=steps, events=len(self.table.events), stands=ctypes.addressof(stands)
        )
        args = LaunchArgs(
            ctypes.addressof(self._pointers),
            self.table.tasks.ctypes.data,
            self.table.workers.ctypes.data,
            self.table.families.ctypes.data,
            self._counters.ctypes.data,
            ctypes.addressof(control),
            position,
            steps,
            self._epoch,
            int(self.watchdog_s * 1e9),
            self._dynamic,
        )
        self._control = control
        try:
            failed = self._library.mpk_run(ctypes.byref(args)) != 0
        finally:
            self._control = None
        if failed:
            error = self._fault(control, stands)
            self._counters[:] = 0
            self._queues[:] = 0
            self._epoch = 0
            raise error
        done = min(control.stop_at, steps)
        self._epoch = (self._epoch + done) % 2**32
        return done

    def write_global(self, name: str, data: bytes) -> None:
        """Fill a variable of the binary's; MpkirError if it has none of that name."""
        try:
            variable = (ctypes.c_char * len(data)).in_dll(self._library, name)
        except ValueError as error:
            raise MpkirError(f"the binary has no variable {name}") from error
        ctypes.memmove(variable, data, len(data))

    def _fault(self, control: Control, stands: ctypes.Array[Stand]) -> MpkirError:
        if control.fault == _ABORTED:
            return MpkirError("the launch was ended from outside")
        if control.fault != 1:
            return MpkirError(
                f"this machine gives no threads or memory for {self.table.worker_count} workers",
                hint="compile for fewer workers",
            )
        hang = Hang(self.table, control, list(stands), self._counters, self._epoch)
        return hang.error(self.watchdog_s)


def _load(path: Path) -> ctypes.CDLL:
    try:
        _check_whole(path)
        library = ctypes.CDLL(str(path))
        library.mpk_run.argtypes = [ctypes.POINTER(LaunchArgs)]
        library.mpk_run.restype = ctypes.c_int
        library.mpk_workers.restype = ctypes.c_int
    except (OSError, AttributeError) as error:
        raise MpkirError(
            f"the binary cannot be loaded ({error})", where=str(path), hint="compile it again"
        ) from error
    return library


def _serves_queues(library: ctypes.CDLL) -> bool:
    """Whether the binary runs dynamic tasks; one that does not need not say so."""
    try:
        return bool(library.mpk_dynamic())
    except AttributeError:
        return False


def _check_whole(path: Path) -> None:
    """Raise OSError for a truncated file, which the loader of the system would map and crash on."""
    header = path.read_bytes()[:64]
    if len(header) < 64 or not header.startswith(b"\x7fELF\x02"):
        raise OSError("it is no 64-bit ELF file")
    (sections,) = struct.unpack_from("=Q", header, 0x28)
    size, count = struct.unpack_from("=HH", header, 0x3A)
    if path.stat().st_size < sections + size * count:
        raise OSError("it is cut short")


def _address(name: str, buffer: torch.Tensor | npt.NDArray[Any]) -> int:
    if isinstance(buffer, np.ndarray):
        contiguous, address = buffer.flags.c_contiguous, buffer.ctypes.data
    else:
        contiguous, address = buffer.is_contiguous(), buffer.data_ptr()
        if buffer.device.type != "cpu":
            raise MpkirError(f"buffer {name!r} is on {buffer.device}, the program runs on the CPU")
    if not contiguous:
        raise MpkirError(f"buffer {name!r} is not contiguous", hint="hand over a contiguous copy")
    return address
