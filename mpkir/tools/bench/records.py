"""Records of measurements, as benchmarks/results holds them, and what a step has to read."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from mpkir.errors import MpkirError
from mpkir.machine import Machine
from mpkir.runtime.buffers import TORCH_DTYPES
from mpkir.runtime.manifest import Buffer, Manifest
from mpkir.tools.text_files import read_text, write_text
from mpkir.version import VERSION


def caches_of(manifest: Manifest) -> tuple[Buffer, ...]:
    """The states that hold keys or values: [batch, heads, capacity, size]."""
    return tuple(b for b in manifest.buffers if b.kind == "state" and len(b.shape) == 4)


def bytes_per_step(manifest: Manifest, position: int) -> int:
    """Bytes that a decode step has to read: its weights, and cached keys and values up to
    `position`.
    """
    total = int(manifest.info["weight_bytes_per_step"])
    for buffer in caches_of(manifest):
        size = prod(buffer.shape) * TORCH_DTYPES[buffer.dtype].itemsize
        total += size * (position + 1) // buffer.shape[2]
    return total


def read_bandwidth(device: torch.device, machine: Machine) -> float:
    """GB/s that a stream of reads reaches: measured here on a CPU, the machine model's on a GPU."""
    if device.type == "cuda":
        return machine.memory_bandwidth
    data = torch.ones(2**27, dtype=torch.float32)
    best = float("inf")
    for _ in range(5):
        begun = perf_counter()
        data.sum()
        best = min(best, perf_counter() - begun)
    return data.nbytes / best / 1e9


def device_name(device: torch.device) -> str:
    """What a record calls the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def provenance() -> dict[str, Any]:
    """Commit, command, versions and date of a measurement.

    The commit is $MPKIR_COMMIT where the measured copy is no git checkout.
    """
    commit = (
        os.environ.get("MPKIR_COMMIT")
        or subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parent,
        ).stdout.strip()
    )
    return {
        "commit": commit or "unknown",
        "command": " ".join(Path(arg).name if i == 0 else arg for i, arg in enumerate(sys.argv)),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "mpkir": VERSION,
        },
        "date": datetime.now(UTC).date().isoformat(),
    }


def append_records(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Add records to a results file; what it holds already stays.

    The file is replaced whole or not at all. Raises MpkirError if it is no results file, or cannot
    be written.
    """
    held: Any = []
    if path.exists():
        try:
            held = json.loads(read_text(path))
        except ValueError as error:
            raise MpkirError(f"this is no results file ({error})", where=str(path)) from error
    if not isinstance(held, list):
        raise MpkirError("this is no results file (not a list)", where=str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps([*held, *records], indent=1) + "\n")
