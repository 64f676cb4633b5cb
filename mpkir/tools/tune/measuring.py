"""Candidates compiled, and candidates timed beside the default in one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mpkir.errors import MpkirError
from mpkir.progress import Progress
from mpkir.runtime.artifact import load_artifact
from mpkir.tools.ablations import Ablation
from mpkir.tools.bench.models import ModelSource
from mpkir.tools.bench.programs import ProgramSource, artifact_name
from mpkir.tools.bench.session import Settings, measure_programs
from mpkir.tools.tune.candidates import Candidate, Tuning


def ablation_of(candidate: Candidate) -> Ablation:
    """The candidate as a variant to measure."""
    return Ablation(candidate.name, "a candidate", "", candidate.variant)


def compile_candidates(
    source: ModelSource, tuning: Tuning, capacity: int, place: Path | None, progress: Progress
) -> list[ProgramSource]:
    """Into PLACE/MODEL+CANDIDATE, or the cache."""
    from mpkir.tools.variants import compile_variant

    programs: list[ProgramSource] = []
    for each in tuning.candidates:
        ablation = ablation_of(each)
        name = artifact_name(tuning.model, ablation, tuning.batch)
        artifact = compile_variant(
            source,
            ablation,
            target=tuning.target,
            batch=tuning.batch,
            capacity=capacity,
            workers=tuning.workers,
            progress=progress,
            output=None if place is None else place / name,
        )
        programs.append(ProgramSource(ablation, artifact))
    return programs


def find_candidates(tuning: Tuning, place: Path) -> list[ProgramSource]:
    """What `compile_candidates` left in `place`."""
    return [
        ProgramSource(
            ablation_of(each),
            load_artifact(place / artifact_name(tuning.model, ablation_of(each), tuning.batch)),
        )
        for each in tuning.candidates
    ]


def measured(
    tuning: Tuning,
    source: ModelSource,
    programs: list[ProgramSource],
    settings: Settings,
    say: Callable[[str], None],
    progress: Progress,
) -> Tuning:
    """The same with the records of all candidates that are right. MpkirError if the default is not,
    or fails."""
    outcome = measure_programs(
        source, programs, tuning.batch, settings, settings.device, say, progress
    )
    records = {record.get("variant", ""): record for record in outcome.records}
    if "" not in records:
        raise MpkirError(
            "the default could not be measured, so nothing is chosen; "
            + "; ".join(str(error) for error in outcome.errors)
        )
    candidates = tuple(
        replace(each, measured=records.get(each.name, {})) for each in tuning.candidates
    )
    return replace(tuning, candidates=candidates)
