"""The compiled programs of a comparison: on one rank, on all, on all with nobody to wait for, and
variants on all.

In a directory of artifacts they are NAME, NAME+tp=N, NAME+tp=N+alone and NAME+VARIANT+tp=N; without
one they are compiled here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpkir.errors import MpkirError
from mpkir.progress import Progress
from mpkir.runtime.artifact import Artifact, load_artifact, read_manifest
from mpkir.runtime.manifest import MANIFEST
from mpkir.runtime.ranks.group import Group
from mpkir.tools.ablations import DEFAULT, Ablation
from mpkir.tools.bench.models import ModelSource
from mpkir.tools.bench.programs import find_artifact
from mpkir.tools.bench.session import Settings
from mpkir.variant import Variant

ALONE = Ablation(
    "alone",
    "ranks send themselves what they would send to others",
    "a step without what other ranks cost; its tokens mean nothing",
    Variant("alone", macros=("MPK_ALONE",)),
)


@dataclass(frozen=True)
class Programs:
    """What is compared."""

    one: Artifact | None
    """For one rank; None where it is not asked for."""
    many: Artifact
    alone: Artifact | None
    """None where a directory of artifacts has none."""
    variants: tuple[tuple[Ablation, Artifact], ...] = ()
    """For as many ranks as `many`."""

    @property
    def named(self) -> list[tuple[Ablation, Artifact]]:
        """All that there are, in the order in which they are measured."""
        every = [(DEFAULT, self.one), (DEFAULT, self.many), (ALONE, self.alone), *self.variants]
        return [(name, artifact) for name, artifact in every if artifact is not None]

    @property
    def each(self) -> list[Artifact]:
        """All that there are."""
        return [artifact for _, artifact in self.named]


def directory_of(source: str, settings: Settings) -> Path | None:
    """Where compiled programs lie: what the user has named, or, for an artifact, the folder that it
    is in; None: nowhere, they are to be compiled."""
    if settings.artifacts is None and (Path(source) / MANIFEST).is_file():
        return Path(source)
    return settings.artifacts


def find_programs(
    directory: Path,
    model: str,
    batch: int,
    ranks: int,
    with_one: bool,
    ablations: Sequence[Ablation] = (),
) -> Programs:
    """Programs by the names of their directories. Raises MpkirError if one is missing, or is not
    for so many ranks."""
    one = find_artifact(directory, model, DEFAULT, batch) if with_one else None
    if (directory / MANIFEST).is_file() and read_manifest(directory).ranks == ranks:
        many = load_artifact(directory)  # whatever it is called
    else:
        many = find_artifact(directory, model, DEFAULT, batch, ranks)
    alone = None
    try:
        alone = find_artifact(directory, model, ALONE, batch, ranks)
    except MpkirError:
        pass  # What waiting for others costs remains unknown.
    variants = [(a, find_artifact(directory, model, a, batch, ranks)) for a in ablations]
    found = Programs(one, many, alone, tuple(variants))
    for artifact in found.each:
        wanted = 1 if artifact is one else ranks
        if artifact.manifest.ranks != wanted:
            raise MpkirError(
                f"it was compiled for {artifact.manifest.ranks} ranks, not {wanted}",
                where=str(artifact.path),
                hint="NAME is to be for one rank, NAME+tp=N for N; or leave numbers out of --tp",
            )
    return found


def compile_programs(
    group: Group,
    source: ModelSource,
    batch: int,
    settings: Settings,
    with_one: bool,
    progress: Progress,
) -> Programs:
    """All of them, compiled by one rank of each host for those beside it."""
    wanted = [(DEFAULT, 1)] if with_one else []
    wanted += [(each, group.ranks) for each in (DEFAULT, ALONE, *settings.ablations)]
    paths: list[bytes] = []
    if group.number_on_host == 0:
        paths = [
            os.fsencode(_compiled(source, ablation, batch, tp, settings, progress).path)
            for ablation, tp in wanted
        ]
    told = group.gather(b"\0".join(paths))
    hosts = [(member.host, member.machine) for member in group.members]
    found = _loaded(told[hosts.index(hosts[group.rank])].split(b"\0"))
    one = found.pop(0) if with_one else None
    many, alone, *variants = found
    return Programs(one, many, alone, tuple(zip(settings.ablations, variants, strict=True)))


def _compiled(
    source: ModelSource,
    ablation: Ablation,
    batch: int,
    tp: int,
    settings: Settings,
    progress: Progress,
) -> Artifact:
    from mpkir.tools.variants import compile_variant

    return compile_variant(
        source,
        ablation,
        target=settings.target,
        batch=batch,
        capacity=settings.capacity or settings.needed,
        workers=settings.workers,
        progress=progress,
        tp=tp,
    )


def _loaded(paths: Sequence[bytes]) -> list[Artifact]:
    return [load_artifact(os.fsdecode(path)) for path in paths]
