"""The compiled programs of a comparison: on one rank, on all, and on all with nobody to wait for.

In a directory of artifacts they are NAME, NAME+tp=N and NAME+tp=N+alone; without one they are
compiled here.
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

    @property
    def each(self) -> list[Artifact]:
        """All that there are."""
        return [each for each in (self.one, self.many, self.alone) if each is not None]


def directory_of(source: str, settings: Settings) -> Path | None:
    """Where compiled programs lie: what the user has named, or, for an artifact, the folder that it
    is in; None: nowhere, they are to be compiled."""
    if settings.artifacts is None and (Path(source) / MANIFEST).is_file():
        return Path(source)
    return settings.artifacts


def find_programs(directory: Path, model: str, batch: int, ranks: int, with_one: bool) -> Programs:
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
    found = Programs(one, many, alone)
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
    """All three, compiled by one rank of each host for those beside it."""
    wanted = [(DEFAULT, 1)] if with_one else []
    wanted += [(DEFAULT, group.ranks), (ALONE, group.ranks)]
    paths: list[bytes] = []
    if group.number_on_host == 0:
        paths = [
            os.fsencode(_compiled(source, ablation, batch, tp, settings, progress).path)
            for ablation, tp in wanted
        ]
    told = group.gather(b"\0".join(paths))
    hosts = [(member.host, member.machine) for member in group.members]
    found = _loaded(told[hosts.index(hosts[group.rank])].split(b"\0"))
    return Programs(found[0] if with_one else None, found[-2], found[-1])


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
