"""From bodies to a binary: who prints the code for a kind of machine, and who builds it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mpkir.backends.body import Body
from mpkir.machine import Machine
from mpkir.runtime.host import cpu_arch, cpu_features
from mpkir.runtime.manifest import Target


class Builder(Protocol):
    """Prints and builds; one for each name in a machine model's `backend`."""

    suffix: str
    """Of the source file: "cpp", "cu"."""

    def emit(self, bodies: Sequence[Body], machine: Machine, tokens: int) -> str:
        """The source text, for `tokens` tokens a step."""
        ...

    def build(self, source: str, machine: Machine, include: Sequence[Path]) -> tuple[bytes, Target]:
        """The binary and what it runs on; `include`: directories of headers of plugins."""
        ...


class CpuBuilder:
    """C++ for threads, built by the system's compiler."""

    suffix = "cpp"

    def emit(self, bodies: Sequence[Body], machine: Machine, tokens: int) -> str:
        from mpkir.backends.cpu.emit import emit

        return emit(bodies, machine.workers, tokens)

    def build(self, source: str, machine: Machine, include: Sequence[Path]) -> tuple[bytes, Target]:
        from mpkir.runtime.cpu import build

        target = Target(
            kind="cpu",
            name=machine.name,
            arch=cpu_arch(),
            workers=machine.workers,
            features=tuple(sorted(cpu_features())),
        )
        return build(source, include).read_bytes(), target


class CudaBuilder:
    """CUDA C++, built by nvcc or NVRTC: one kernel, or one for each body."""

    suffix = "cu"

    def emit(self, bodies: Sequence[Body], machine: Machine, tokens: int) -> str:
        from mpkir.backends.cuda.emit import emit
        from mpkir.backends.cuda.emit_per_operator import emit_per_operator

        return (emit_per_operator if machine.launch == "per-operator" else emit)(
            bodies, machine, tokens
        )

    def build(self, source: str, machine: Machine, include: Sequence[Path]) -> tuple[bytes, Target]:
        from mpkir.runtime.build_cuda import build_cuda, uses_nvshmem

        target = Target(
            kind="cuda",
            name=machine.name,
            arch=machine.arch,
            workers=machine.workers,
            shared_bytes=machine.block_memory,
            launch="per-operator" if machine.launch == "per-operator" else "persistent",
            transport="nvshmem" if uses_nvshmem(source) else "direct",
        )
        return build_cuda(source, machine.arch, include), target
