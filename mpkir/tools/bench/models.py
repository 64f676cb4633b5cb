"""Models to measure: by a known name or a configuration (random weights), a checkpoint, or a
compiled artifact, which says what it was compiled from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mpkir.errors import MpkirError
from mpkir.runtime.artifact import load_artifact
from mpkir.runtime.manifest import MANIFEST
from mpkir.tools.bench.shapes import configurations

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG = "config.json"
"""File of an artifact: the configuration of the model that it was compiled from."""
TAG = "+"
"""Between a model's name and what a variant of its artifact is called."""


@dataclass(frozen=True)
class ModelSource:
    """A model to measure, not built yet."""

    name: str
    """What results call it."""
    config: Any = None
    """Of transformers; None for a checkpoint, which has its own."""
    checkpoint: str | None = None
    weights: Path | None = None
    """The artifact whose weights it takes; random ones where there is none."""

    @property
    def random(self) -> bool:
        """Whether its weights mean nothing."""
        return self.checkpoint is None and self.weights is None

    def build(self, device: torch.device) -> PreTrainedModel:
        """The model on the device in bf16, its random weights the same every time."""
        from transformers import AutoModelForCausalLM

        if self.checkpoint is not None:
            from mpkir.frontend.huggingface import load_model

            loaded: Any = load_model(self.checkpoint).model
            return loaded.to(device).eval()
        torch.manual_seed(0)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(self.config, dtype=torch.bfloat16).eval()
        if self.weights is not None:
            stored = load_artifact(self.weights).weights()
            with torch.no_grad():
                for name, parameter in model.named_parameters(remove_duplicate=False):
                    if name in stored:
                        parameter.copy_(stored[name])
        return model


def model_source(source: str) -> ModelSource:
    """The model that a command's argument names. Raises MpkirError."""
    path = Path(source)
    if (path / MANIFEST).is_file():
        return _of_artifact(path)
    known = configurations()
    if source in known:
        return ModelSource(source, known[source])
    if path.suffix == ".json":
        return ModelSource(path.resolve().parent.name, _configuration(path))
    if "/" not in source and not path.exists() and not path.suffix:
        raise MpkirError(
            f"no model is called {source!r}",
            hint=f"give a checkpoint, a config.json, an artifact, or one of {', '.join(known)}",
        )
    return ModelSource(path.stem.lower(), checkpoint=source)


def _of_artifact(path: Path) -> ModelSource:
    name = path.resolve().name.partition(TAG)[0]
    held = bool(load_artifact(path).manifest.weight_files)
    if (path / CONFIG).is_file():
        return ModelSource(name, _configuration(path / CONFIG), weights=path if held else None)
    if name in configurations() and not held:
        return ModelSource(name, configurations()[name])
    raise MpkirError(
        f"the artifact does not say which model it is of: it holds no {CONFIG}",
        where=str(path),
        hint="compile the model again with this version",
    )


def read_configuration(path: Path) -> Any:
    """The configuration in a file; MpkirError if it is none of a model that transformers knows."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path)
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise MpkirError(
            f"this is not the configuration of a known model ({reason})",
            where=str(path),
            hint="give a config.json that transformers' AutoConfig reads",
        ) from error


def _configuration(path: Path) -> Any:
    config = read_configuration(path)
    # Of the file that the weights came from; a program's are plain.
    vars(config).pop("quantization_config", None)
    return config


def weights_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Parameters by name, tied ones under each of their names."""
    return {n: p.detach() for n, p in model.named_parameters(remove_duplicate=False)}
