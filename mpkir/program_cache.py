"""Compiled programs that are kept: found by the IR, or by what the IR is made from.

An artifact lies in a directory named by the hash of its IR and all else that goes into it. Making
the IR means exporting a model, seconds to minutes; so a second kind of key, of what the export
depends on (`mpkir.source_keys`), points to the same directory.
"""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mpkir.errors import MpkirError
from mpkir.plugins import plugins_digest
from mpkir.runtime.artifact import Artifact, load_artifact
from mpkir.runtime.cache import cache_directory, source_digest
from mpkir.runtime.host import cpu_features

_PACKAGES = ("torch", "transformers", "xdsl", "numpy", "ml_dtypes")
"""Whose version a compilation depends on, beside mpkir's own code."""


class Key:
    """A hash of everything that it was told."""

    def __init__(self, *parts: Any) -> None:
        self._hash = hashlib.sha256()
        self.add(*parts)

    def add(self, *parts: Any) -> None:
        """Anything whose `repr` says all of it."""
        for part in parts:
            text = repr(part).encode()
            self._hash.update(b"%d " % len(text) + text)

    def add_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Names, types and values; tensors on the meta device have none."""
        for name, tensor in sorted(tensors.items()):
            self.add(name, tensor.dtype, tuple(tensor.shape))
            if tensor.device.type != "meta":
                flat = tensor.detach().cpu().contiguous().view(-1)
                self._hash.update(flat.view(torch.uint8).numpy().tobytes())

    @property
    def text(self) -> str:
        return self._hash.hexdigest()[:24]


def environment() -> tuple[Any, ...] | None:
    """What every compilation depends on beside its input: code and versions, the CPU.

    None where something of it cannot be told, so that nothing may be taken from the cache.
    """
    plugins = plugins_digest()
    if plugins is None:
        return None
    return (
        source_digest(),
        plugins,
        platform.python_version(),
        tuple((name, _version(name)) for name in _PACKAGES),
        tuple(sorted(cpu_features())),
        os.environ.get("CXX"),
        torch.get_default_dtype(),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def place_of(key: Key) -> Path:
    """Where the artifact of an IR key goes."""
    return cache_directory() / "programs" / key.text


def artifact_at(path: Path) -> Artifact | None:
    """What an earlier compilation left there; None if nothing, or if it is damaged."""
    try:
        return load_artifact(path)
    except MpkirError:
        return None


def find(key: Key) -> Artifact | None:
    """The artifact that `remember` was told of under this key, if it is still whole."""
    try:
        name = _pointer(key).read_text(encoding="utf-8")
    except OSError:
        return None
    return artifact_at(cache_directory() / "programs" / name)


def remember(key: Key, artifact: Artifact) -> None:
    """Let a key lead to an artifact in the cache. A cache that cannot be written costs time and
    nothing else."""
    pointer = _pointer(key)
    try:
        pointer.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=pointer.parent, delete=False) as file:
            file.write(artifact.path.name)
        Path(file.name).replace(pointer)
    except OSError:
        return


def _pointer(key: Key) -> Path:
    return cache_directory() / "sources" / key.text


def add_artifact_parts(
    key: Key,
    parts: Sequence[Any],
    constants: Mapping[str, torch.Tensor],
    extra_files: Mapping[str, bytes],
) -> None:
    """What goes into an artifact beside its IR."""
    key.add(*parts)
    key.add_tensors(constants)
    for name, content in sorted(extra_files.items()):
        key.add(name, hashlib.sha256(content).digest())
