"""A measurement: every system of a model in turns, right answers first, one record for each."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from mpkir.errors import MpkirError
from mpkir.machine import machine_named
from mpkir.progress import SILENT, Progress
from mpkir.runtime.artifact import Artifact
from mpkir.runtime.manifest import MANIFEST
from mpkir.tools.ablations import Ablation
from mpkir.tools.bench.checks import check
from mpkir.tools.bench.lean_reference import reference_of
from mpkir.tools.bench.models import ModelSource, model_source, weights_of
from mpkir.tools.bench.programs import ProgramSource, programs_of
from mpkir.tools.bench.records import bytes_per_step, device_name, provenance, read_bandwidth
from mpkir.tools.bench.systems import FURTHER, Compiled, System, Torch
from mpkir.tools.bench.timing import Times, time_in_turns


@dataclass(frozen=True)
class Settings:
    """What to measure of each model."""

    target: str = ""
    """A machine's name; of the compiled program, or the CPU, if not given."""
    batches: tuple[int, ...] = (1,)
    positions: tuple[int, ...] = (32,)
    """Of the first timed step."""
    steps: int = 127
    runs: int = 10
    repeats: int = 3
    """Launches that have to give the same bits."""
    peers: tuple[str, ...] = ()
    ablations: tuple[Ablation, ...] = ()
    artifacts: Path | None = None
    workers: int | None = None
    capacity: int | None = None

    @property
    def device(self) -> torch.device:
        """Where the target runs. MpkirError if torch sees no such device here."""
        if machine_named(self.target).kind == "cpu":
            return torch.device("cpu")
        if not torch.cuda.is_available():
            raise MpkirError(
                f"{self.target} is a GPU, and torch sees none here",
                hint="compile here (benchmarks/compile_artifacts.py) and measure with --artifacts "
                "where there is one, or give --target cpu",
            )
        return torch.device("cuda", torch.cuda.current_device())

    @property
    def needed(self) -> int:
        """Positions that the measured steps reach."""
        return max(self.positions) + self.steps


@dataclass
class Outcome:
    """What a measurement gave."""

    records: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    errors: list[MpkirError] = field(default_factory=list[MpkirError])
    """Of systems that gave wrong results or could not run; they have no record."""


Say = Callable[[str], None]


def measure(
    source: str, settings: Settings, say: Say = print, progress: Progress = SILENT
) -> Iterator[Outcome]:
    """Measure a model, one outcome for each batch size. Raises MpkirError if nothing can run."""
    model = model_source(source)
    artifacts = settings.artifacts
    if artifacts is None and (Path(source) / MANIFEST).is_file():
        artifacts = Path(source)
    device = settings.device
    for batch in settings.batches:
        programs = programs_of(
            model,
            settings.ablations,
            batch,
            target=settings.target,
            capacity=settings.capacity or settings.needed,
            workers=settings.workers,
            artifacts=artifacts,
            progress=progress,
        )
        for each in programs:
            if (ranks := each.artifact.manifest.ranks) > 1:
                raise MpkirError(
                    f"this program is for {ranks} ranks",
                    where=str(each.artifact.path),
                    hint=f"measure it with --tp {ranks}",
                )
        check_capacity([each.artifact for each in programs], settings)
        yield measure_programs(model, programs, batch, settings, device, say, progress)
        release(device)


def check_capacity(artifacts: Sequence[Artifact], settings: Settings) -> None:
    """Raise MpkirError unless each is a language model that has all measured positions."""
    for artifact in artifacts:
        roles = artifact.manifest.language
        if roles is None:
            raise MpkirError("this program is not a language model", where=str(artifact.path))
        if roles.capacity < settings.needed:
            raise MpkirError(
                f"{settings.steps} steps from position {max(settings.positions)} end at "
                f"{settings.needed}, the program was compiled for {roles.capacity} positions",
                where=str(artifact.path),
                hint="compile it with a larger capacity, or choose an earlier --position",
            )


def measure_programs(
    source: ModelSource,
    programs: Sequence[ProgramSource],
    batch: int,
    settings: Settings,
    device: torch.device,
    say: Say,
    progress: Progress,
) -> Outcome:
    """Check programs of one model, then time those that are right and the peers, in turns.

    The first program is what the others are variants of.
    """
    outcome = Outcome()
    with progress.stage(f"build {source.name}"):
        model = source.build(device)
    weights = weights_of(model)
    facts = _check_all(programs, model, weights, batch, settings, device, outcome, say, progress)
    release(device)  # the fp32 model
    loaded: list[Compiled] = []
    for each in programs:
        if each.ablation.name in facts:
            loaded.append(each.load(weights, device, loaded[0] if loaded else None))
    systems: list[System] = [*loaded]
    capacity = _capacity(programs)
    # Compilations of an earlier batch count against torch's limit of those of one function.
    torch._dynamo.reset()
    systems += [Torch(model, mode, batch, capacity, device) for mode in settings.peers]
    for position in settings.positions:
        with progress.stage(f"time at position {position}"):
            found = time_in_turns(systems, position, settings.steps, settings.runs)
        outcome.errors += [each for each in found.values() if isinstance(each, MpkirError)]
        common = _common(source, programs[0], batch, position, settings, device)
        for system in systems:
            times = found[system.label]
            if isinstance(times, MpkirError):
                continue
            own: dict[str, Any] = {}
            if isinstance(system, Compiled):
                if settings.steps > FURTHER:
                    own |= system.launch_costs(position)
                own |= facts[system.variant]
            outcome.records.append(_record(system, times, common, own))
            say(_line(outcome.records[-1]))
    return outcome


def _check_all(
    programs: Sequence[ProgramSource],
    model: Any,
    weights: dict[str, torch.Tensor],
    batch: int,
    settings: Settings,
    device: torch.device,
    outcome: Outcome,
    say: Say,
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """What the checks found, by ablation, of the programs that are right.

    Each is loaded alone: the fp32 model takes its room beside it.
    """
    facts: dict[str, dict[str, Any]] = {}
    with progress.stage("reference in fp32"):
        reference = reference_of(model, device)
        release(device)
        manifest = programs[0].artifact.manifest
        chain = reference.chain(manifest, batch)
        on_caches = reference.on_random_caches(manifest, batch, settings.positions)
    for each in programs:
        label = each.ablation.name or "default"
        try:
            with progress.stage(f"check {label}"):
                system = each.load(weights, device)
                found = check(system, reference, chain, on_caches, settings.repeats)
        except MpkirError as error:
            say(f"{label}: {error}")
            outcome.errors.append(error)
            continue
        finally:
            system = None
            release(device)
        facts[each.ablation.name] = found
    return facts


def _capacity(programs: Sequence[ProgramSource]) -> int:
    roles = programs[0].artifact.manifest.language
    assert roles is not None
    return roles.capacity


def _common(
    source: ModelSource,
    program: ProgramSource,
    batch: int,
    position: int,
    settings: Settings,
    device: torch.device,
) -> dict[str, Any]:
    """What the records of one run have in common."""
    manifest = program.artifact.manifest
    middle = position + settings.steps // 2
    size = bytes_per_step(manifest, middle)
    bandwidth = read_bandwidth(device, machine_named(manifest.target.name))
    return {
        "benchmark": "decode",
        "model": source.name,
        "weights": "random" if source.random else "checkpoint",
        "gpu": device_name(device),
        "gpus": 0 if device.type == "cpu" else 1,
        "batch": batch,
        "positions": [position, position + settings.steps - 1],
        "capacity": _capacity([program]),
        "bytes": size,
        "floor_ms": round(size / bandwidth / 1e6, 5),
        "bandwidth_gb_s": round(bandwidth, 1),
        **provenance(),
    }


def _record(
    system: System, times: Times, common: dict[str, Any], own: dict[str, Any]
) -> dict[str, Any]:
    assert isfinite(times.median)
    return {
        "benchmark": common["benchmark"],
        "system": system.name,
        **system.facts,
        **common,
        **times.record(),
        "gb_s": round(common["bytes"] / times.median / 1e6, 1),
        "share_of_floor": round(common["floor_ms"] / times.median, 4),
        **own,
    }


def _line(record: dict[str, Any]) -> str:
    """A record in one line, for a log."""
    first, last = record["positions"]
    system = ", ".join(str(record[key]) for key in ("system", "mode", "variant") if key in record)
    return (
        f"{record['model']} batch {record['batch']}, {first}-{last}, {system}: "
        f"{record['ms']:.4f} ms, {record['share_of_floor']:.1%} of the floor"
    )


def release(device: torch.device) -> None:
    """Give back what nobody refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
