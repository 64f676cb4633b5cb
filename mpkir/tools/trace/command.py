"""What `mpk trace` does: record a step, or read one that was recorded; then draw it."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mpkir.errors import MpkirError
from mpkir.progress import Progress
from mpkir.runtime.artifact import Artifact, load_artifact
from mpkir.runtime.program import Program
from mpkir.runtime.recording import Recording, median_step_ms, random_weights, record, traced
from mpkir.tools.trace.page import page_of
from mpkir.tools.trace.path import critical_path
from mpkir.tools.trace.summary import summary
from mpkir.tools.trace.timeline import Planned, TracedProgram, read_program, timeline_of

WARM = 64
"""Steps of a launch before the one that is kept."""


def record_artifact(
    folder: Path,
    position: int,
    *,
    kept: int = 1,
    random: bool = False,
    runs: int = 5,
    progress: Progress,
) -> Recording:
    """Trace `kept` steps from `position`, and time the same launch with and without marks.

    random: random weights, for an artifact without; runs: launches of either build, of which the
    median counts. Raises MpkirError.
    """
    artifact = load_artifact(folder)
    weights = random_weights(artifact) if random else None
    with progress.stage("build the traced kernel"):
        noting = traced(artifact)
    with progress.stage("run"):
        program = Program(artifact, weights)
        first, steps = _fill_tokens(program, position, kept)
        untraced = median_step_ms(program, first, steps, runs + 1)
        del program
        _collect(artifact)
        program = Program(noting, weights)
        _fill_tokens(program, position, kept)
        recording = record(program, position, kept=kept, warm=WARM, runs=runs + 1)
    return replace(recording, untraced_ms=untraced)


def _fill_tokens(program: Program, position: int, kept: int) -> tuple[int, int]:
    """Let a launch that traces `position` find all its tokens; its first position and its steps."""
    per_step = program.manifest.tokens_per_step
    before = min(WARM, position // per_step)
    steps = before + kept + 1
    language = program.manifest.language
    if language is not None:
        if position + kept + 1 > language.capacity:
            raise MpkirError(f"position {position} is beyond the capacity {language.capacity}")
        tokens = program.buffer(language.tokens)
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randint(language.vocabulary, tokens.shape, generator=generator)
        # Known to the end: no chosen token can stop the launch.
        tokens.copy_(chosen.to(tokens.device))
    return position - before * per_step, steps


def _collect(artifact: Artifact) -> None:
    gc.collect()
    if artifact.manifest.target.kind == "cuda":
        torch.cuda.empty_cache()


def draw(
    program: TracedProgram,
    recording: Recording,
    output: Path,
    title: str,
    *,
    plan: str | None = None,
    perfetto: bool = True,
    progress: Progress,
) -> tuple[dict[str, Any], list[Path]]:
    """Write OUTPUT.html and OUTPUT.pftrace; what was measured, and the files.

    plan: the source to simulate, whose schedule the artifact has. Raises MpkirError.
    """
    timeline = timeline_of(program, recording)
    path = critical_path(timeline)
    planned: Planned | None = None
    if plan is not None:
        from mpkir.tools.trace.plan import plan_beside

        planned = plan_beside(timeline, plan, progress)
    found = summary(timeline, path)
    if planned is not None:
        found["plan"] = planned.comparison
    with progress.stage("draw"):
        written = [_write(output, ".html", page_of(timeline, path, title, planned).encode())]
        if perfetto:
            from mpkir.tools.trace.perfetto_file import perfetto_trace

            written.append(_write(output, ".pftrace", perfetto_trace(timeline, path, title)))
    return found, written


def _write(output: Path, suffix: str, content: bytes) -> Path:
    path = output.with_name(output.name + suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        reason = error.strerror or error
        raise MpkirError(f"the file cannot be written ({reason})", where=str(path)) from error
    return path


def run(
    artifact: Path,
    output: Path,
    *,
    given: Path | None = None,
    position: int = 100,
    kept: int = 1,
    random: bool = False,
    plan: str | None = None,
    perfetto: bool = True,
    title: str | None = None,
    progress: Progress,
) -> tuple[dict[str, Any], list[Path]]:
    """Record, unless a recording is `given`, and draw; what was measured, and the files."""
    written: list[Path] = []
    if given is None:
        recording = record_artifact(artifact, position, kept=kept, random=random, progress=progress)
        written.append(output.with_name(output.name + ".npz"))
        recording.save(written[0])
    else:
        recording = Recording.load(given)
    program = read_program(artifact)
    named = title or f"{artifact.resolve().name} on {recording.device}"
    found, drawn = draw(
        program, recording, output, named, plan=plan, perfetto=perfetto, progress=progress
    )
    return found, [*written, *drawn]
