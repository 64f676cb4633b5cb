"""What all ranks must have alike before they run: the program and the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

from mpkir.errors import MpkirError
from mpkir.runtime.artifact import Artifact
from mpkir.runtime.ranks.group import Group
from mpkir.runtime.weights import TensorFiles
from mpkir.version import VERSION

_SAMPLE = 64
"""Elements of a weight's first and last row that are compared."""


def check_agreement(group: Group, artifact: Artifact, weights: Mapping[str, torch.Tensor]) -> None:
    """Raise MpkirError unless every rank has the same artifact, and weights that look the same.

    Artifacts are compared by the hashes of all their files; weights by names, types, shapes and a
    few values of each, because no rank reads all of them.
    """
    manifest = hashlib.sha256(artifact.manifest.to_json().encode()).hexdigest()
    check_alike(group, "versions of mpkir", VERSION)
    check_alike(group, "programs", manifest, str(artifact.path))
    check_alike(group, "weights", _fingerprint(artifact, weights), str(artifact.path))


def check_alike(group: Group, what: str, own: str, where: str | None = None) -> None:
    """Raise MpkirError, on all ranks, unless each says the same of something."""
    told = group.gather(hashlib.sha256(own.encode()).digest())
    for rank, other in enumerate(told):
        if other != told[0]:
            raise group.fail(
                MpkirError(
                    f"ranks 0 and {rank} have different {what}",
                    where=where,
                    hint="give all ranks the same",
                )
            )


def _fingerprint(artifact: Artifact, weights: Mapping[str, torch.Tensor]) -> str:
    """A hash of what the weights look like, the same whatever part of them a rank takes."""
    digest = hashlib.sha256()
    for buffer in artifact.manifest.buffers:
        if buffer.kind != "weight":
            continue
        for source in buffer.sources:
            if source not in weights:
                continue  # Whoever binds it says so.
            shape, first, last = _ends_of(weights, source)
            digest.update(f"{source} {first.dtype} {shape}".encode())
            for sample in (first, last):
                digest.update(sample.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _ends_of(
    weights: Mapping[str, torch.Tensor], source: str
) -> tuple[tuple[int, ...], torch.Tensor, torch.Tensor]:
    """Shape of a tensor, and elements of its first and last row."""
    if isinstance(weights, TensorFiles):
        shape = weights.shape_of(source)
        first, last = (weights.rows_of(source, row, row + 1) for row in (0, shape[0] - 1))
    else:
        tensor = weights[source].detach()
        shape = tuple(tensor.shape)
        first, last = tensor[:1], tensor[-1:]
    return shape, first.reshape(-1)[:_SAMPLE], last.reshape(-1)[:_SAMPLE]
