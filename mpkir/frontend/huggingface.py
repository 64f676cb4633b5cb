"""Models from Hugging Face: from a configuration alone, a directory, a hub name or a GGUF file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.utils import logging as hub_logging
from torch import nn
from torch.export import ExportedProgram
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    modeling_gguf_pytorch_utils,
)
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
from transformers.utils import logging

from mpkir.errors import MpkirError
from mpkir.frontend.gguf import read_gguf_header


class LoadedModel(NamedTuple):
    """A causal language model with what is needed to talk to it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    """None where the source has no tokenizer: the model then takes and gives token ids."""
    stop: tuple[int, ...]
    """Token ids that end a text."""

    @property
    def chat_template(self) -> str | None:
        """Jinja source of the chat format; None for a model that has none."""
        template = None if self.tokenizer is None else self.tokenizer.chat_template
        return template if isinstance(template, str) else None

    def save(self, directory: Path) -> None:
        """Write a directory that `load_model` reads; OSError if it cannot be written."""
        with _quiet():
            self.model.save_pretrained(directory)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(directory)


def load_model(source: str | Path, dtype: torch.dtype = torch.bfloat16) -> LoadedModel:
    """Load weights and tokenizer from a directory, a `.gguf` file or by a hub name.

    Quantized GGUF weights are expanded to `dtype`. MpkirError where there is nothing to load, a
    file is damaged or the architecture is unknown.
    """
    path = Path(source).expanduser()
    if path.is_file() or path.suffix == ".gguf":
        return _load_gguf(path, dtype)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise MpkirError(
                f"{path} holds no model: config.json is missing",
                hint="give a directory that save_pretrained wrote, or a .gguf file",
            )
    elif path.is_absolute() or str(source).startswith((".", "~")) or str(source).count("/") > 1:
        raise MpkirError(f"no such file or directory: {path}")
    return _load(str(source), {"local_files_only": True} if path.is_dir() else {}, dtype)


def open_model(directory: Path, dtype: torch.dtype = torch.bfloat16) -> LoadedModel:
    """What `load_model` gives for a directory, with parameters that have no values: they are on the
    meta device. MpkirError for a configuration that transformers does not know."""
    source = str(directory)
    with _quiet():
        try:
            config = AutoConfig.from_pretrained(source, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise MpkirError(
                f"this is not the configuration of a known model: {_first_line(error)}",
                where=source,
            ) from error
        model = model_from_config(config, dtype)
        try:
            model.generation_config = GenerationConfig.from_pretrained(source)
        except OSError:
            pass  # as transformers does, from the configuration
        tokenizer = _load_tokenizer(source, {"local_files_only": True})
    return LoadedModel(model, tokenizer, _stop_of(model, tokenizer))


def _stop_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> tuple[int, ...]:
    stop = _ids(getattr(model.generation_config, "eos_token_id", None))
    if tokenizer is not None:
        stop += _ids(tokenizer.eos_token_id)
    return tuple(dict.fromkeys(stop))


def _load_gguf(path: Path, dtype: torch.dtype) -> LoadedModel:
    if not path.is_file():
        raise MpkirError(f"no such file: {path}")
    header = read_gguf_header(path)
    if header.architecture not in GGUF_CONFIG_MAPPING:
        known = ", ".join(sorted(GGUF_CONFIG_MAPPING))
        raise MpkirError(
            f"{path} has the unknown architecture '{header.architecture}'",
            hint=f"these are known: {known}",
        )
    options: dict[str, Any] = {
        "gguf_file": path.name,
        "local_files_only": True,
        "quantization_config": GgufConfig(dequantize=True),
    }
    return _load(str(path.parent), options, dtype)


def _load(source: str, options: dict[str, Any], dtype: torch.dtype) -> LoadedModel:
    with _quiet():
        try:
            model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **options).eval()
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise MpkirError(
                f"cannot load a causal language model from '{source}': {_first_line(error)}",
                hint="give a directory, a .gguf file, or the name of a model on the Hugging Face "
                "hub (which needs the network, or its cache)",
            ) from error
        tokenizer = _load_tokenizer(source, options)
    settle_frequencies(model)
    return LoadedModel(model, tokenizer, _stop_of(model, tokenizer))


def _load_tokenizer(source: str, options: dict[str, Any]) -> PreTrainedTokenizerBase | None:
    options = {name: value for name, value in options.items() if name != "quantization_config"}
    try:
        return AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _ids(value: Any) -> tuple[int, ...]:
    """The token ids of an id, a list of them or None."""
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and notes: the caller shows its own."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_level = hub_logging.get_verbosity()
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    logging.disable_progress_bar()
    # This module alone takes tqdm's own bar, which the switch above does not reach.
    gguf_bar = getattr(modeling_gguf_pytorch_utils, "tqdm")
    setattr(modeling_gguf_pytorch_utils, "tqdm", logging.tqdm)
    try:
        yield
    finally:
        setattr(modeling_gguf_pytorch_utils, "tqdm", gguf_bar)
        logging.set_verbosity(level)
        hub_logging.set_verbosity(hub_level)
        if bars:
            logging.enable_progress_bar()


def model_from_config(
    config: PreTrainedConfig, dtype: torch.dtype = torch.bfloat16
) -> PreTrainedModel:
    """A causal language model without weight values.

    Its parameters are on the meta device, its buffers (rotary frequencies) real.
    """
    from accelerate import init_empty_weights

    try:
        with _quiet(), init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        model.tie_weights()  # which came apart as they were moved
    except Exception as error:
        raise MpkirError(
            f"transformers builds no causal language model of the architecture "
            f"'{config.model_type}' from this configuration: {_first_line(error)}",
            hint="mpkir loads what transformers' AutoModelForCausalLM knows",
        ) from error
    settle_frequencies(model)
    return model.eval()


def settle_frequencies(model: nn.Module) -> None:
    """Let rotary frequencies for long texts be a buffer, as those for short ones are.

    transformers computes them when a model first runs, on the device where it then runs: too late
    for one whose parameters have no values.
    """
    for module in model.modules():
        kinds: Any = getattr(module, "rope_type", None)
        for layer_type, kind in kinds.items() if isinstance(kinds, dict) else ((None, kinds),):
            if kind != "longrope":
                continue
            device = next(module.buffers()).device
            position = torch.zeros(1, 1, dtype=torch.long, device=device)
            module(torch.zeros(1, device=device), position, *filter(None, [layer_type]))
        if kinds is None:
            continue
        for name, value in list(vars(module).items()):
            if isinstance(value, torch.Tensor):
                delattr(module, name)
                module.register_buffer(name, value, persistent=False)


def weights_of(model: nn.Module | ExportedProgram) -> dict[str, torch.Tensor]:
    """Every parameter and buffer by its name in the program, tied ones under each of their names.

    Buffers that a state_dict leaves out (rotary frequencies) are included. Tensors are the model's
    own, not copies.
    """
    if isinstance(model, ExportedProgram):
        constants = {k: v for k, v in model.constants.items() if isinstance(v, torch.Tensor)}
        return {k: v.detach() for k, v in (model.state_dict | constants).items()}
    weights: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        weights[name] = parameter.detach()
    for name, buffer in model.named_buffers(remove_duplicate=False):
        weights[name] = buffer
    return weights
