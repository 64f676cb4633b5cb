"""Whether this machine is the one that an artifact was compiled for."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from mpkir.errors import MpkirError
from mpkir.runtime.manifest import Target

_FEATURE_PREFIXES = ("sse4", "avx", "fma", "f16c", "bmi", "amx", "gfni", "vaes", "vpclmul", "asimd")


def cpu_arch() -> str:
    """The machine as `uname -m` says it, e.g. "x86_64"."""
    return platform.machine()


def cpu_features() -> frozenset[str]:
    """Instruction set extensions that the compiler may use with -march=native here."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, flags = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(flag for flag in flags.split() if flag.startswith(_FEATURE_PREFIXES))
    return frozenset()


def check_host(target: Target, device: torch.device, where: str) -> None:
    """Raise MpkirError unless the program for `target` runs on `device`.

    where: the artifact, for messages
    """
    if target.kind == "cpu":
        _check_cpu(target, where)
    else:
        _check_gpu(target, device, where)


def _check_cpu(target: Target, where: str) -> None:
    hint = 'compile the model again here, with target="cpu"'
    if target.arch != cpu_arch():
        raise MpkirError(
            f"compiled for a {target.arch} CPU, this machine is {cpu_arch()}",
            where=where,
            hint=hint,
        )
    if missing := set(target.features) - cpu_features():
        raise MpkirError(
            f"compiled for a CPU with {', '.join(sorted(missing))}, which this one lacks",
            where=where,
            hint=hint,
        )


def _check_gpu(target: Target, device: torch.device, where: str) -> None:
    if not torch.cuda.is_available():
        raise MpkirError(
            f"compiled for a GPU ({target.name}, {target.arch}), but torch sees no NVIDIA GPU here",
            where=where,
            hint='run it where there is one, or compile with target="cpu"',
        )
    found = torch.cuda.get_device_properties(device)
    hint = "compile the model again for this GPU"
    have = (found.major, found.minor)
    if not _runs_on(target.arch, have):
        raise MpkirError(
            f"compiled for {target.arch} ({target.name}), this GPU is {found.name} "
            f"(sm_{found.major}{found.minor})",
            where=where,
            hint=hint,
        )
    if target.workers > found.multi_processor_count:
        raise MpkirError(
            f"compiled for {target.workers} SMs that run at once, {found.name} has "
            f"{found.multi_processor_count}",
            where=where,
            hint=hint,
        )
    if target.shared_bytes > found.shared_memory_per_block_optin:
        raise MpkirError(
            f"needs {target.shared_bytes} bytes of shared memory on each SM, {found.name} gives "
            f"{found.shared_memory_per_block_optin}",
            where=where,
            hint=hint,
        )


def _runs_on(arch: str, have: tuple[int, int]) -> bool:
    """A cubin runs on its own major version from its minor on; "sm_90a" only on exactly 9.0."""
    digits = arch.removeprefix("sm_").rstrip("af")
    wanted = (int(digits[:-1]), int(digits[-1]))
    if arch.endswith("a"):
        return have == wanted
    return have[0] == wanted[0] and have[1] >= wanted[1]
