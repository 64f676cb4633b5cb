"""Checkpoints, with what is slow to read kept in a form that is not.

transformers reads a GGUF file's metadata in Python several times over and expands its weights with
NumPy: tens of seconds for a small model. What comes out is saved in the cache, under the hash of
the file, as a directory that loads in less than one.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

from mpkir.frontend import LoadedModel, load_model, weights_of
from mpkir.runtime.cache import cache_directory

_ROOM = 4
"""An expanded model is kept if the disk has room for this many of its size."""


def load_checkpoint(source: str | Path) -> LoadedModel:
    """`load_model`, faster from the second time on for a GGUF file. Raises MpkirError."""
    path = Path(source).expanduser()
    if path.suffix != ".gguf" or not path.is_file():
        return load_model(source)
    kept = _place_of(path)
    if kept.is_dir():
        return load_model(kept)
    loaded = load_model(path)
    try:
        _keep(loaded, kept)
    except OSError:
        # A cache that cannot be written costs time and nothing else.
        pass
    return loaded


def _place_of(path: Path) -> Path:
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return cache_directory() / "checkpoints" / f"{content[:32]}-{version('transformers')}"


def _keep(loaded: LoadedModel, place: Path) -> None:
    """Save a model and its tokenizer, whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    size = sum(weight.nbytes for weight in weights_of(loaded.model).values())
    if shutil.disk_usage(place.parent).free < _ROOM * size:
        return
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        draft = Path(scratch) / "model"
        loaded.save(draft)
        draft.rename(place)
