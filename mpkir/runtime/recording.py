"""What a traced build notes of some steps: when tasks waited, ran and were done, when weights came.

A traced build is the artifact's own source with MPK_TRACE defined. The host gives its `mpk_trace`
(include/mpk/trace.cuh) memory and says which steps to note.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from mpkir.errors import MpkirError
from mpkir.runtime.artifact import Artifact
from mpkir.runtime.program import Program

Words = npt.NDArray[np.uint32]
Times = npt.NDArray[np.int64]

MARKS = ("asked", "ready", "ready_data", "computed", "done")
"""Columns of `Recording.marks`; what they are stands in include/mpk/trace.cuh."""

STAGE_FIELDS = ("worker", "step", "task", "bytes", "asked", "free", "issued", "landed")
"""Columns of `Recording.stages`."""

TRACED_BINARY = "traced.cubin"
MACRO, VARIABLE = "MPK_TRACE", "mpk_trace"
NOT_MARKED = -(2**31)
_TASK_WORDS = _STAGE_WORDS = 8
_SLOT_BYTES = 16384
_FORMAT = 1


class Tracing(ctypes.Structure):
    """`struct Tracing` of include/mpk/trace.*."""

    _fields_ = (
        ("tasks", ctypes.c_void_p),
        ("stages", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("task_count", ctypes.c_int),
        ("first", ctypes.c_int),
        ("count", ctypes.c_uint),
        ("step_mask", ctypes.c_uint),
        ("stage_mask", ctypes.c_uint),
    )


class TracedLauncher(Protocol):
    """A launcher whose kernel may be a traced build."""

    def run(self, position: int, steps: int) -> int: ...
    def write_global(self, name: str, data: bytes) -> None: ...


class Notes:
    """Memory for what a traced build notes of launches of up to `steps` steps: it holds the last
    `places` of them, and the last `stages` stages of each worker; both are powers of two.
    """

    def __init__(self, program: Program, steps: int, places: int, stages: int) -> None:
        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.int32, device=program.device)

        table = program.table
        self._tasks = zeros(places, table.task_count, _TASK_WORDS)
        self._stages = zeros(table.worker_count, stages, _STAGE_WORDS)
        self._counts = zeros(table.worker_count)
        addresses = (each.data_ptr() for each in (self._tasks, self._stages, self._counts))
        self._tracing = Tracing(*addresses, table.task_count, 0, steps, places - 1, stages - 1)
        launcher: TracedLauncher = program.launcher  # pyright: ignore[reportAssignmentType]
        self._launcher = launcher

    def __enter__(self) -> Notes:
        """The launches from here on are noted. MpkirError if the build is not traced."""
        self._launcher.write_global(VARIABLE, bytes(self._tracing))
        return self

    def __exit__(self, *_: object) -> None:
        self._launcher.write_global(VARIABLE, bytes(Tracing()))

    def marks(self, steps: Sequence[int]) -> Words:
        """[steps, rows of the table, 5] the clock at MARKS; 0 where nothing was marked."""
        places = [step % len(self._tasks) for step in steps]
        return self._tasks.cpu().numpy().view(np.uint32)[places, :, : len(MARKS)]

    def stages(self) -> list[tuple[npt.NDArray[np.int32], int]]:
        """Each worker's ring of stages, `struct TracedStage`, and how many it noted."""
        noted = self._counts.cpu().numpy().view(np.uint32)
        return list(zip(self._stages.cpu().numpy(), noted.tolist(), strict=True))


def earliest(clock: Words) -> np.uint32:
    """The first of some times modulo 2^32 within 2^31 of each other; 0 is none, not all are."""
    known = clock[clock != 0]
    return np.uint32((int(known[0]) + int((known - known[0]).view(np.int32).min())) % 2**32)


def since(clock: Words, begin: np.uint32) -> Times:
    """Nanoseconds from `begin` on, which is within 2^31 of all; NOT_MARKED where the clock is 0."""
    return np.where(clock != 0, (clock - begin).view(np.int32).astype(np.int64), NOT_MARKED)


@dataclass(frozen=True, eq=False)
class Recording:
    """Some steps of one launch.

    marks     [steps, rows of the table, 5] nanoseconds from the first task's start, MARKS;
              NOT_MARKED where nothing was noted
    stages    [n, 8] STAGE_FIELDS, by worker and time of issue, of all weights in flight meanwhile;
              step -1 is the one before
    position  of the first step that was noted
    step_ms   mean time of a step, of such launches
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


def record(
    program: Program, position: int, *, kept: int = 1, warm: int = 16, runs: int = 1
) -> Recording:
    """Run a traced build through `warm` steps, `kept` from `position` on, and one more, and keep
    what it noted of those. It notes every step, in a ring, so all take as long as a traced one.
    Of several such runs, one right behind the other, the last one's notes are kept.

    The states are used as they are: the tokens of a language model must stand there already. Raises
    MpkirError if the build is not traced, or if there is no step before `position`.
    """
    per_step = program.manifest.tokens_per_step
    before = min(warm, position // per_step)
    if before < 1:
        raise MpkirError(f"position {position} has no step before it", hint="trace a later one")
    steps, first = before + kept + 1, before - 1
    places = 1 << (kept + 1).bit_length()
    stage_count = _stages_to_hold(program, kept + 2)
    while True:
        with Notes(program, steps, places, stage_count) as notes:
            step_ms = median_step_ms(program, position - before * per_step, steps, runs)
        rings = notes.stages()
        if all(_holds(ring, count, first) for ring, count in rings):
            break
        stage_count *= 2
    return _recording(
        notes,
        [_in_order(ring, count) for ring, count in rings],
        range(first, first + kept + 2),
        position=position,
        step_ms=step_ms,
        device=_name_of(program.device),
    )


def median_step_ms(program: Program, position: int, steps: int, runs: int) -> float:
    """Milliseconds of a step, of `runs` launches, one right behind the other; of several, the first
    is not counted: behind a pause a launch takes longer. MpkirError if one stops before its end.
    """
    times: list[float] = []
    for _ in range(runs):
        begun = perf_counter()
        done = program.run(position, steps)
        if done < steps:
            raise MpkirError(f"the program stopped by itself after {done} of {steps} steps")
        times.append((perf_counter() - begun) * 1e3 / steps)
    return median(times[1:] or times)


def _holds(ring: npt.NDArray[np.int32], count: int, first: int) -> bool:
    """Whether a worker's ring of stages has all from step `first` on."""
    return count <= len(ring) or int(ring[count % len(ring), 0]) < first


def _in_order(ring: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.int32]:
    """A ring's stages in the order in which they were noted."""
    return ring[:count] if count <= len(ring) else np.roll(ring, -(count % len(ring)), axis=0)


def _recording(
    notes: Notes, rows: Sequence[npt.NDArray[np.int32]], steps: range, **about: Any
) -> Recording:
    """Of these steps all but the first and the last, from the first task's start."""
    workers = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
    flat = np.concatenate(rows)
    marks = notes.marks(steps[1:-1])
    starts = marks[..., MARKS.index("ready")]
    if not starts.any():
        raise MpkirError("the traced build noted nothing", hint="compile the model again")
    begin = earliest(starts)
    kept = since(marks, begin)
    clocks = since(np.ascontiguousarray(flat[:, 3:7]).view(np.uint32), begin)
    overlaps = (clocks[:, -1] > 0) & (clocks[:, 0] < kept.max()) & (flat[:, 0] >= steps[0])
    times = np.column_stack([workers, flat[:, 0] - steps[1], flat[:, 1:3], clocks])
    return Recording(kept, times[overlaps].astype(np.int64), **about)


def _stages_to_hold(program: Program, steps: int) -> int:
    """A power of two: a worker's part of the weights, if it gets up to twice its share."""
    weights = int(program.manifest.info.get("weight_bytes_per_step", 0))
    stages = 2 * steps * weights // (_SLOT_BYTES * program.table.worker_count)
    return 1 << max(6, int(stages).bit_length())


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
