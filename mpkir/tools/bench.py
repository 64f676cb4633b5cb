"""`mpk bench`: a language model's decode step, timed as a chain of dependent steps in a launch."""

from __future__ import annotations

import json
import os
import platform
import statistics
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
from mpkir.machine import Machine, machine_named
from mpkir.runtime.buffers import TORCH_DTYPES
from mpkir.runtime.generation import LoadedLanguageModel
from mpkir.runtime.manifest import Manifest
from mpkir.version import VERSION


def bytes_per_step(manifest: Manifest, position: int) -> int:
    """Bytes that a decode step has to read: its weights, and cached keys and values up to
    `position`.
    """
    total = int(manifest.info["weight_bytes_per_step"])
    for buffer in manifest.buffers:
        if buffer.kind == "state" and len(buffer.shape) == 4:
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


def time_decode(
    model: LoadedLanguageModel, *, name: str, first: int, steps: int, runs: int
) -> dict[str, Any]:
    """Median time of a step over `runs` launches of `steps` dependent steps from position `first`.

    Returns a record as benchmarks/results/ holds them. The tokens of the prompt are drawn at
    random, the same in every launch; each launch must end with the same tokens.
    """
    program, manifest = model.program, model.program.manifest
    if first + steps > model.capacity:
        raise MpkirError(
            f"positions {first} to {first + steps} are not within the capacity {model.capacity}"
        )
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(model.roles.vocabulary, (first + 1,), generator=generator)
    sequence = program.buffer(model.roles.tokens)
    times: list[float] = []
    results: set[tuple[int, ...]] = set()
    done = 0
    for _ in range(runs + 2):
        sequence.fill_(-1)
        sequence[: first + 1] = prompt.to(sequence.device)
        if not times:
            program.run(0, first)
        begun = _now(program.device)
        done = program.run(first, steps)
        times.append((_now(program.device) - begun) * 1e3 / done)
        results.add(tuple(sequence.tolist()))
    if len(results) != 1:
        raise MpkirError("launches with the same prompt gave different tokens")
    times = times[2:]
    bandwidth = read_bandwidth(program.device, machine_named(manifest.target.name))
    floor = bytes_per_step(manifest, first + steps // 2) / bandwidth / 1e6
    return {
        "benchmark": "decode",
        "system": "mpkir-cpu" if manifest.target.kind == "cpu" else "mpkir-megakernel",
        "policy": manifest.info.get("policy", "round-robin"),
        "model": name,
        "gpu": _device_name(program.device),
        "gpus": 0 if manifest.target.kind == "cpu" else 1,
        "batch": 1,
        "positions": [first, first + done - 1],
        "ms": round(statistics.median(times), 5),
        "ms_min": round(min(times), 5),
        "ms_max": round(max(times), 5),
        "runs": runs,
        "floor_ms": round(floor, 5),
        "bandwidth_gb_s": round(bandwidth, 1),
        "share_of_floor": round(floor / statistics.median(times), 4),
        **provenance(),
    }


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
    """Add records to a results file; what it holds already stays."""
    held: list[Any] = []
    if path.exists():
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise MpkirError(f"this is no results file ({error})", where=str(path)) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([*held, *records], indent=1) + "\n", encoding="utf-8")


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()
