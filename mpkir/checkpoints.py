"""Checkpoints, with what is slow to read kept in a form that is not.

transformers reads a GGUF file's metadata in Python several times over and expands its weights with
NumPy: tens of seconds for a small model. What comes out is saved in the cache, under the hash of
the file, as a directory that loads in less than one.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from mpkir.errors import MpkirError
from mpkir.frontend import LoadedModel, arrangements_of, load_model, open_model, weights_of
from mpkir.runtime.arrangement import Arrangement
from mpkir.runtime.cache import cache_directory
from mpkir.runtime.weights import TensorFiles

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROOM = 4
"""An expanded model is kept if the disk has room for this many of its size."""


class OpenCheckpoint(NamedTuple):
    """A model whose weights are read where somebody asks for them, rows at a time."""

    loaded: LoadedModel
    """The model: without values, or with all where its files are not what it consists of."""
    weights: Mapping[str, torch.Tensor]


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


def open_checkpoint(source: str | Path) -> OpenCheckpoint:
    """A checkpoint for whoever needs a part of its weights. Raises MpkirError.

    A GGUF file is expanded once into the cache. What transformers stacks or joins while it loads a
    model (the experts of mixtures) is put together from the files where it is read; where it does
    other things to them, or they are quantized, all are loaded.
    """
    path = Path(source).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        kept = _place_of(path)
        if not kept.is_dir():
            loaded = load_checkpoint(path)
            if not kept.is_dir():  # no room for it
                return OpenCheckpoint(loaded, weights_of(loaded.model))
            del loaded
        path = kept
    directory = path if path.is_dir() else _in_hub_cache(str(source))
    if directory is not None and (directory / "config.json").is_file():
        model = open_model(directory)
        weights = _files_of(model, directory)
        if weights is not None:
            return OpenCheckpoint(model, weights)
    loaded = load_checkpoint(source)
    return OpenCheckpoint(loaded, weights_of(loaded.model))


def _in_hub_cache(name: str) -> Path | None:
    """Where a hub's model lies; None if it does not, or this is no name."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError, HFValidationError):
        return None


def _files_of(loaded: LoadedModel, directory: Path) -> TensorFiles | None:
    """The weights of a model without values, from the files of its directory; None if it consists
    of other tensors than they hold."""
    paths = sorted(directory.glob("*.safetensors"))
    try:
        called = made_weights(loaded.model, paths)
    except MpkirError:
        return None  # Loading it says what is wrong.
    if called is None:
        return None
    parameters = _saved_tensors(loaded.model)
    dtypes = {name: parameter.dtype for name, parameter in parameters.items()}
    files = TensorFiles(paths, called, dtypes)
    try:
        fit = all(files.shape_of(name) == each.shape for name, each in parameters.items())
    except (KeyError, ValueError):
        return None  # Some are missing, or do not fit together.
    return files if fit else None


def made_weights(model: PreTrainedModel, paths: Sequence[Path]) -> dict[str, Arrangement] | None:
    """How each tensor of a model is made of those that safetensors files hold; what they lack is
    left out. None if its tensors are no values of the model's: quantized, or converted by
    transformers in other ways than `runtime.arrangement` knows.

    Raises MpkirError for a file that cannot be read.
    """
    if getattr(model.config, "quantization_config", None) is not None:
        return None
    arranged = arrangements_of(model, TensorFiles(paths))
    if arranged is None:
        return None
    tensors = _saved_tensors(model)
    of_tied = {id(tensors[name]): made for name, made in arranged.items() if name in tensors}
    return {
        name: arranged[name] if name in arranged else of_tied[id(tensor)]
        for name, tensor in tensors.items()
        if name in arranged or id(tensor) in of_tied
    }


def _saved_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Parameters, tied ones under each of their names, and buffers that checkpoints hold."""
    tensors: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    saved = model.state_dict().keys()
    return tensors | {name: each for name, each in model.named_buffers() if name in saved}


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
