"""What a traced build notes of some steps: when tasks waited, ran and were done, when weights came.

A traced build is the artifact's own source with MPK_TRACE defined. The host gives its `mpk_trace`
(include/mpk/trace.cuh) memory and says which steps to note; the clock counts nanoseconds.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from mpkir.errors import MpkirError
from mpkir.runtime.artifact import Artifact
from mpkir.runtime.program import Program

Times = npt.NDArray[np.int64]
Words = npt.NDArray[np.int32]

MARKS = ("asked", "ready", "ready_data", "computed", "done")
"""Columns of `Recording.marks`; what they are stands in include/mpk/trace.cuh."""

STAGE_FIELDS = ("worker", "step", "task", "bytes", "asked", "free", "issued", "landed")
"""Columns of `Recording.stages`."""

STAGE_WORDS = 8
"""32-bit words of a stage in the kernel's memory."""

TRACED_BINARY = "traced.cubin"
MACRO, VARIABLE = "MPK_TRACE", "mpk_trace"
NOT_MARKED = -(2**31)
_SLOT_BYTES = 16384
_FORMAT = 1


class Tracing(ctypes.Structure):
    """`struct Tracing` of include/mpk/trace.*."""

    _fields_ = (
        ("marks", ctypes.c_void_p),
        ("stages", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("tasks", ctypes.c_int),
        ("first", ctypes.c_int),
        ("count", ctypes.c_uint),
        ("step_mask", ctypes.c_uint),
        ("stage_mask", ctypes.c_uint),
    )


class TracedLauncher(Protocol):
    """A launcher whose kernel may be a traced build."""

    def run(self, position: int, steps: int) -> int: ...
    def write_global(self, name: str, data: bytes) -> None: ...


@dataclass(frozen=True, eq=False)
class Recording:
    """Some steps of one launch.

    marks     [steps, rows of the table, 5] nanoseconds from the first task's start, MARKS;
              NOT_MARKED where nothing was noted
    stages    [n, 8] STAGE_FIELDS, by worker and time of issue, of all weights in flight meanwhile;
              step -1 is the one before
    position  of the first step that was noted
    step_ms   mean time of a step of this launch
    device    its name
    untraced_ms  the same of the untraced build; 0 if it was not measured
    """

    marks: Times
    stages: Times
    position: int
    step_ms: float
    device: str
    untraced_ms: float = 0.0

    @property
    def steps(self) -> int:
        return len(self.marks)

    def save(self, path: Path) -> None:
        """Write a compressed .npz."""
        about = {
            "format": _FORMAT,
            "position": self.position,
            "step_ms": self.step_ms,
            "untraced_ms": self.untraced_ms,
            "device": self.device,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                marks=self.marks.astype(np.int32),
                stages=self.stages.astype(np.int32),
                about=np.array(json.dumps(about)),
            )

    @staticmethod
    def load(path: Path) -> Recording:
        """Read what `save` wrote. Raises MpkirError."""
        try:
            with np.load(path, allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                marks = file["marks"].astype(np.int64)
                stages = file["stages"].astype(np.int64)
        except (OSError, KeyError, ValueError, EOFError) as error:
            raise MpkirError(f"this is no trace ({error})", where=str(path)) from error
        shapes = marks.ndim == 3 and marks.shape[2] == len(MARKS) and stages.ndim == 2
        if about.pop("format", None) != _FORMAT or not shapes:
            raise MpkirError("the trace is of another version of mpkir", where=str(path))
        return Recording(marks, stages, **about)


def traced(artifact: Artifact) -> Artifact:
    """The same program with a traced build of its kernel. A GPU's is kept in the artifact's folder,
    so that it need not be built where it runs. Raises MpkirError where it is neither there nor can
    be built.
    """
    target = artifact.manifest.target
    if target.launch != "persistent":
        raise MpkirError(
            "only a persistent kernel notes what it does",
            where=str(artifact.path),
            hint="nsys shows programs of one kernel for each operator",
        )
    if target.kind == "cpu":
        from mpkir.runtime.cpu import build

        binary = build(_with_marks(artifact))
    else:
        from mpkir.runtime.build_cuda import build_cuda

        binary = artifact.path / TRACED_BINARY
        if not binary.is_file():
            binary.write_bytes(build_cuda(_with_marks(artifact), target.arch))
    return replace(artifact, manifest=replace(artifact.manifest, binary=str(binary.resolve())))


def _with_marks(artifact: Artifact) -> str:
    return f"#define {MACRO}\n" + artifact.source_path.read_text(encoding="utf-8")


def record(program: Program, position: int, *, kept: int = 1, warm: int = 16) -> Recording:
    """Run a traced build through `warm` steps, `kept` from `position` on, and one more, and keep
    what it noted of those. It notes every step, in a ring, so all take as long as a traced one.

    The states are used as they are: the tokens of a language model must stand there already. Raises
    MpkirError if the build is not traced, or if there is no step before `position`.
    """
    per_step = program.manifest.tokens_per_step
    before = min(warm, position // per_step)
    if before < 1:
        raise MpkirError(f"position {position} has no step before it", hint="trace a later one")
    launcher: TracedLauncher = program.launcher  # pyright: ignore[reportAssignmentType]
    table, steps, first = program.table, before + kept + 1, before - 1
    places = 1 << (kept + 1).bit_length()
    stage_count = _stages_to_hold(program, kept + 2)
    while True:
        marks = _zeros((places, table.task_count, len(MARKS)), program.device)
        stages = _zeros((table.worker_count, stage_count, STAGE_WORDS), program.device)
        counts = _zeros((table.worker_count,), program.device)
        addresses = (each.data_ptr() for each in (marks, stages, counts))
        tracing = Tracing(*addresses, table.task_count, 0, steps, places - 1, stage_count - 1)
        launcher.write_global(VARIABLE, bytes(tracing))
        try:
            begun = perf_counter()
            done = program.run(position - before * per_step, steps)
            step_ms = (perf_counter() - begun) * 1e3 / max(done, 1)
        finally:
            launcher.write_global(VARIABLE, bytes(Tracing()))
        if done < steps:
            raise MpkirError(f"the program stopped by itself after {done} of {steps} steps")
        noted = counts.cpu().numpy().view(np.uint32)
        rings = list(zip(stages.cpu().numpy(), noted.tolist(), strict=True))
        if all(_holds(ring, count, first) for ring, count in rings):
            break
        stage_count *= 2
    wanted = [step & (places - 1) for step in range(first, first + kept + 2)]
    return _recording(
        marks.cpu().numpy()[wanted],
        [_in_order(ring, count) for ring, count in rings],
        first,
        position=position,
        step_ms=step_ms,
        device=_name_of(program.device),
    )


def _holds(ring: Words, count: int, first: int) -> bool:
    """Whether a worker's ring of stages has all from step `first` on."""
    return count <= len(ring) or int(ring[count % len(ring), 0]) < first


def _in_order(ring: Words, count: int) -> Words:
    """A ring's stages in the order in which they were noted."""
    return ring[:count] if count <= len(ring) else np.roll(ring, -(count % len(ring)), axis=0)


def _recording(
    marks: Words,
    rows: Sequence[Words],
    first: int,
    **about: Any,
) -> Recording:
    """Raw memory as nanoseconds. Clocks are modulo 2^32, and 0 is no time."""
    raw = marks.view(np.uint32)
    workers = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
    flat = np.concatenate(rows)
    inner = raw[1:-1]
    starts = inner[..., MARKS.index("ready")]
    if not (starts != 0).any():
        raise MpkirError("the traced build noted nothing", hint="compile the model again")
    begin = _earliest(starts[starts != 0])

    def since(values: npt.NDArray[np.uint32]) -> Times:
        return (values - begin).view(np.int32).astype(np.int64)

    clocks = since(np.ascontiguousarray(flat[:, 3:7]).view(np.uint32))
    kept = np.where(inner != 0, since(inner), NOT_MARKED)
    overlaps = (clocks[:, -1] > 0) & (clocks[:, 0] < kept.max()) & (flat[:, 0] >= first)
    times = np.column_stack([workers, flat[:, 0] - first - 1, flat[:, 1:3], clocks])
    return Recording(kept, times[overlaps].astype(np.int64), **about)


def _earliest(known: npt.NDArray[np.uint32]) -> np.uint32:
    """The first of some times modulo 2^32 that lie within 2^31 of each other."""
    anchor = known[0]
    return np.uint32((int(anchor) + int((known - anchor).view(np.int32).min())) % 2**32)


def _stages_to_hold(program: Program, steps: int) -> int:
    """A power of two: a worker's part of the weights, if it gets up to twice its share."""
    weights = int(program.manifest.info.get("weight_bytes_per_step", 0))
    stages = 2 * steps * weights // (_SLOT_BYTES * program.table.worker_count)
    return 1 << max(6, int(stages).bit_length())


def _zeros(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int32, device=device)


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def random_weights(artifact: Artifact, seed: int = 0) -> Mapping[str, torch.Tensor]:
    """Weights of the right shapes for an artifact that has none, on the device it is for.

    Small, so that activations stay finite; a step takes as long with them as with real ones.
    """
    from mpkir.runtime.buffers import TORCH_DTYPES

    device = torch.device(artifact.manifest.target.kind)
    torch.manual_seed(seed)
    weights: dict[str, torch.Tensor] = {}
    for buffer in artifact.manifest.buffers:
        if buffer.kind != "weight":
            continue
        rows = [(part.source, part.rows) for part in buffer.parts]
        for source, count in rows or [(str(buffer.source), buffer.shape[0])]:
            shape = (count, *buffer.shape[1:])
            tensor = torch.empty(shape, dtype=TORCH_DTYPES[buffer.dtype], device=device)
            weights[source] = tensor.normal_(0.0, 0.02) if tensor.is_floating_point() else tensor
    return weights
