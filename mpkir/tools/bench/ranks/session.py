"""A measurement on this rank and the others: right answers first, then every system in turns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from mpkir.errors import MpkirError
from mpkir.progress import Progress
from mpkir.runtime.artifact import Artifact
from mpkir.runtime.generation import LoadedLanguageModel
from mpkir.runtime.manifest import Manifest
from mpkir.runtime.program import Program
from mpkir.runtime.ranks.group import Group
from mpkir.tools.ablations import Ablation
from mpkir.tools.bench.checks import Expected, Reference, check
from mpkir.tools.bench.lean_reference import LeanReference
from mpkir.tools.bench.models import ModelSource, model_source, weights_of
from mpkir.tools.bench.ranks.programs import (
    ALONE,
    Programs,
    compile_programs,
    directory_of,
    find_programs,
)
from mpkir.tools.bench.ranks.records import Comparison
from mpkir.tools.bench.ranks.reference import undivided
from mpkir.tools.bench.ranks.systems import Ranks, Single
from mpkir.tools.bench.ranks.together import agreed
from mpkir.tools.bench.session import Outcome, Say, Settings, check_capacity, release
from mpkir.tools.bench.systems import Compiled, System
from mpkir.tools.bench.timing import time_in_turns


@dataclass(frozen=True)
class Run:
    """What all of a measurement is made with."""

    settings: Settings
    group: Group
    device: torch.device
    with_one: bool
    """Whether to measure on one rank, too."""
    say: Say
    progress: Progress


def measure(source: str, run: Run) -> Iterator[Outcome]:
    """Measure a model, one outcome for each batch size. Every rank has to call it; the records are
    the same on all but for what rank 0 alone has found. Raises MpkirError if nothing can run."""
    model = model_source(source)
    directory = directory_of(source, run.settings)
    for batch in run.settings.batches:
        if directory is None:
            programs = compile_programs(
                run.group, model, batch, run.settings, run.with_one, run.progress
            )
        else:
            programs = find_programs(
                directory,
                model.name,
                batch,
                run.group.ranks,
                run.with_one,
                run.settings.ablations,
            )
        check_capacity(programs.each, run.settings)
        yield _measured(model, programs, batch, run)
        torch._dynamo.reset()
        release(run.device)


def _measured(source: ModelSource, programs: Programs, batch: int, run: Run) -> Outcome:
    outcome = Outcome()
    with run.progress.stage(f"build {source.name}"):
        model = source.build(run.device)
    weights = weights_of(model)
    whole = undivided(programs.many.manifest, model.config)
    with run.progress.stage("reference in fp32"):
        reference = LeanReference(model, run.device)
        chain = reference.chain(whole, batch)
        on_caches = reference.on_random_caches(whole, batch, run.settings.positions)
    facts: dict[str, dict[str, Any]] = {}
    systems: list[System] = []
    held: Program | None = None
    for ablation, artifact in programs.named:
        system = _load(artifact, ablation, weights, whole, run, held)
        held = system.program if isinstance(system, Ranks) else held
        if ablation is not ALONE:
            found = _checked(system, reference, chain, on_caches, run)
            if isinstance(found, MpkirError):
                run.say(f"{system.label}: {found}")
                outcome.errors.append(found)
                continue
            facts[system.label] = found
        systems.append(system)
    del reference
    weights.clear()
    release(run.device)
    systems += _peers(model, programs.many.manifest, batch, run, outcome)
    comparison = Comparison(source, programs, batch, run.settings, run.group, run.device)
    for position in run.settings.positions:
        with run.progress.stage(f"time at position {position}"):
            times = time_in_turns(systems, position, run.settings.steps, run.settings.runs)
        run.group.check()
        outcome.errors += [each for each in times.values() if isinstance(each, MpkirError)]
        outcome.records += comparison.records(systems, times, position, facts)
    return outcome


def _load(
    artifact: Artifact,
    ablation: Ablation,
    weights: dict[str, torch.Tensor],
    whole: Manifest,
    run: Run,
    held: Program | None,
) -> Ranks | Single:
    """A program with memory on this rank's device; one for one rank on rank 0 alone. Weights that
    `held` has alike are shared with it."""
    group, device = run.group, run.device
    tags = f"tp={artifact.manifest.ranks}{f', {ablation.name}' if ablation.name else ''}"
    with run.progress.stage(f"load {tags}"):
        if artifact.manifest.ranks == 1:
            own: Compiled | None = None
            if group.rank == 0:
                program = Program(artifact, weights=weights, device=device)
                own = Compiled(LoadedLanguageModel(program))
            return Single(artifact.manifest, own, group, device)
        program = Program(artifact, weights=weights, device=device, beside=held, group=group)
        return Ranks(LoadedLanguageModel(program), group, whole, ablation.name)


def _checked(
    system: Ranks | Single, reference: Reference, chain: Expected, on_caches: Expected, run: Run
) -> dict[str, Any] | MpkirError:
    """What the checks found; or what is wrong, on whichever rank."""
    own = system.own if isinstance(system, Single) else system
    facts: dict[str, Any] = {}
    wrong: MpkirError | None = None
    variant = system.facts.get("variant")
    tags = f"tp={system.facts['tp']}{f', {variant}' if variant else ''}"
    with run.progress.stage(f"check {tags}"):
        try:
            if own is not None:
                facts = check(own, reference, chain, on_caches, run.settings.repeats)
        except MpkirError as error:
            wrong = error
        return agreed(run.group, wrong) or facts


def _peers(model: Any, manifest: Manifest, batch: int, run: Run, outcome: Outcome) -> list[System]:
    """PyTorch, divided among the ranks."""
    if not run.settings.peers:
        return []
    from mpkir.tools.bench.ranks.tensor_parallel import TensorParallel, divide

    assert manifest.language is not None
    capacity = manifest.language.capacity
    wrong: MpkirError | None = None
    with run.progress.stage("divide PyTorch's model"):
        try:
            divide(model)
        except MpkirError as error:
            wrong = error
        wrong = agreed(run.group, wrong)
    if wrong is not None:
        run.say(str(wrong))
        outcome.errors.append(wrong)
        return []
    return [
        TensorParallel(model, mode, batch, capacity, run.device, run.group)
        for mode in run.settings.peers
    ]
