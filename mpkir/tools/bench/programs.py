"""The compiled programs to measure of a model: found in a directory of artifacts, or compiled here.

An artifact of a model lies in DIR/NAME; its variants beside it, DIR/NAME+batch=4 or
DIR/NAME+in-flight=4+batch=4 (any order). A program of N ranks has the tag tp=N.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mpkir.errors import MpkirError
from mpkir.progress import Progress
from mpkir.runtime.artifact import Artifact, load_artifact
from mpkir.runtime.generation import LoadedLanguageModel
from mpkir.runtime.manifest import MANIFEST
from mpkir.runtime.program import Program
from mpkir.tools.ablations import DEFAULT, Ablation
from mpkir.tools.bench.models import TAG, ModelSource
from mpkir.tools.bench.systems import Compiled


@dataclass(frozen=True)
class ProgramSource:
    """A compiled program, not loaded yet."""

    ablation: Ablation
    artifact: Artifact

    def load(
        self,
        weights: Mapping[str, torch.Tensor],
        device: torch.device,
        beside: Compiled | None = None,
    ) -> Compiled:
        """It with memory on the device; weights that `beside` holds alike are shared with it."""
        held = None if beside is None else beside.program
        program = Program(self.artifact, weights=weights, device=device, beside=held)
        return Compiled(LoadedLanguageModel(program), self.ablation.name)


def artifact_name(model: str, ablation: Ablation, batch: int, tp: int = 1) -> str:
    """What the directory of an artifact is called."""
    tags = [ablation.name] if ablation.name else []
    tags += [f"batch={batch}"] if batch > 1 else []
    tags += [f"tp={tp}"] if tp > 1 else []
    return TAG.join([model, *tags])


def find_artifact(
    directory: Path, model: str, ablation: Ablation, batch: int, tp: int = 1
) -> Artifact:
    """An artifact by the name of its directory, or `directory` itself if it is the default's.

    Raises MpkirError if there is none.
    """
    if (directory / MANIFEST).is_file():
        model, directory = directory.resolve().name.partition(TAG)[0], directory.resolve().parent
    wanted = set(artifact_name("", ablation, batch, tp).split(TAG))
    for path in sorted(directory.glob(f"{model}*")):
        name, _, tags = path.name.partition(TAG)
        if name == model and set(f"{TAG}{tags}".split(TAG) if tags else [""]) == wanted:
            return load_artifact(path)
    raise MpkirError(
        f"there is no artifact {artifact_name(model, ablation, batch, tp)}",
        where=str(directory),
        hint="benchmarks/compile_artifacts.py or `mpk compile` writes it"
        + (f", with --tp {tp}" if tp > 1 else ""),
    )


def programs_of(
    source: ModelSource,
    ablations: Sequence[Ablation],
    batch: int,
    *,
    target: str,
    capacity: int,
    workers: int | None,
    artifacts: Path | None,
    progress: Progress,
) -> list[ProgramSource]:
    """The default and each ablation, at this batch size."""
    wanted = (DEFAULT, *ablations)
    if artifacts is not None:
        return [
            ProgramSource(each, find_artifact(artifacts, source.name, each, batch))
            for each in wanted
        ]
    from mpkir.tools.variants import compile_variant

    return [
        ProgramSource(
            each,
            compile_variant(
                source,
                each,
                target=target,
                batch=batch,
                capacity=capacity,
                workers=workers,
                progress=progress,
            ),
        )
        for each in wanted
    ]
