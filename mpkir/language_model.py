"""Language models from Hugging Face directories, hub names, GGUF files or bare configurations."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mpkir import program_cache
from mpkir.checkpoints import load_checkpoint
from mpkir.collection import rare_collection
from mpkir.compiler import compile_module
from mpkir.errors import MpkirError
from mpkir.frontend import export_step, weights_of, without_torch_notes
from mpkir.machine import machine_named
from mpkir.pipeline import POLICY
from mpkir.program_cache import Key
from mpkir.progress import SILENT, Progress
from mpkir.runtime.artifact import Artifact, check_replaceable
from mpkir.runtime.generation import TOKENIZER, LoadedLanguageModel
from mpkir.runtime.manifest import LanguageRoles
from mpkir.runtime.program import Program
from mpkir.source_keys import language_model_key
from mpkir.tuned import choices
from mpkir.variant import DEFAULT, Variant

DEFAULT_CAPACITY = 1024
"""Positions of a cache where the user asks for no number, if the model has that many."""


class LanguageModel(LoadedLanguageModel):
    """A causal language model compiled to one megakernel.

    ```python
    lm = LanguageModel.from_pretrained("model.gguf", target="cpu")
    lm.generate("Hello", max_new_tokens=64).text
    ```
    """

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        target: str = "cpu",
        *,
        capacity: int | None = None,
        batch: int = 1,
        workers: int | None = None,
        output: str | Path | None = None,
        progress: Progress = SILENT,
        dump: str | Path | None = None,
        policy: str = POLICY,
    ) -> LanguageModel:
        """Load a model's weights and tokenizer, compile its decode step, and bind both.

        source: a directory, a hub name that is in the local cache, or a .gguf file; target and
        workers and policy as in `mpkir.compile`; capacity: longest sequence; batch: prompts
        that are answered at once; output: the artifact's directory, which then holds the weights
        too; without it the artifact lies in the cache and the weights stay where they are. Raises
        MpkirError.
        """
        machine_named(target, workers)
        if output is not None:
            check_replaceable(output)
        with progress.stage("load the checkpoint"):
            loaded = load_checkpoint(source)
        return cls.from_model(
            loaded.model,
            target,
            tokenizer=loaded.tokenizer,
            stop=loaded.stop,
            capacity=capacity,
            batch=batch,
            workers=workers,
            output=output,
            progress=progress,
            dump=dump,
            policy=policy,
        )

    @classmethod
    def from_model(
        cls,
        model: Any,
        target: str = "cpu",
        *,
        tokenizer: Any = None,
        stop: Sequence[int] = (),
        capacity: int | None = None,
        batch: int = 1,
        workers: int | None = None,
        output: str | Path | None = None,
        progress: Progress = SILENT,
        dump: str | Path | None = None,
        policy: str = POLICY,
    ) -> LanguageModel:
        """Compile a causal language model that transformers has built; weights stay in place."""
        weights = weights_of(model)
        artifact = compile_language_model(
            model,
            target,
            tokenizer=tokenizer,
            stop=stop,
            capacity=capacity,
            batch=batch,
            workers=workers,
            output=output,
            weights=weights if output is not None else None,
            progress=progress,
            dump=dump,
            policy=policy,
        )
        return cls(Program(artifact, weights=weights))


@rare_collection()
def compile_language_model(
    model: Any,
    target: str = "cpu",
    *,
    tokenizer: Any = None,
    stop: Sequence[int] = (),
    capacity: int | None = None,
    batch: int = 1,
    workers: int | None = None,
    output: str | Path | None = None,
    weights: dict[str, torch.Tensor] | None = None,
    weight_files: Sequence[str | Path] = (),
    progress: Progress = SILENT,
    dump: str | Path | None = None,
    policy: str = POLICY,
    variant: Variant = DEFAULT,
) -> Artifact:
    """Compile a language model's decode step; its parameters may lie on the meta device.

    The artifact keeps the configuration, the tokenizer and the model's constants (rotary
    frequencies); `weights` are
    stored with it, `weight_files` referred to, if given; `variant` is what is done otherwise than
    by default.
    """
    machine = machine_named(target, workers=workers)
    capacity = capacity_for(model, capacity)
    with progress.stage("read constants and tokenizer"):
        constants, extra_files = _constants_of(model), _tokenizer_files(tokenizer)
        extra_files["config.json"] = model.config.to_json_string().encode()
    key: Key | None = None
    if output is None:
        with progress.stage("look into the cache"):
            files = tuple(str(Path(file).resolve()) for file in weight_files)
            parts = (machine, capacity, batch, tuple(stop), policy, variant, files)
            parts = (*parts, choices(machine.name))
            key = language_model_key(model, parts, constants, extra_files)
            held = None if key is None or dump is not None else program_cache.find(key)
        if held is not None:
            return held
    with progress.stage("export"), without_torch_notes():
        exported = export_step(model, capacity, batch=batch)
    with progress.stage("import"), without_torch_notes():
        module = exported.module(stop)
    artifact = compile_module(
        module,
        machine,
        output=output,
        constants=constants,
        weights=weights,
        weight_files=weight_files,
        language=LanguageRoles(
            tokens="tokens",
            logits="logits",
            capacity=_capacity_of(module),
            vocabulary=int(model.config.get_text_config().vocab_size),
            stop_tokens=tuple(stop),
            batch=batch,
        ),
        extra_files=extra_files,
        progress=progress,
        dump=dump,
        policy=policy,
        variant=variant,
    )
    if key is not None:
        program_cache.remember(key, artifact)
    return artifact


def capacity_for(model: Any, wanted: int | None) -> int:
    """The number of positions to compile for; MpkirError if the model has fewer than are wanted."""
    text = model.config.get_text_config()
    longest = int(getattr(text, "max_position_embeddings", DEFAULT_CAPACITY))
    capacity = min(DEFAULT_CAPACITY, longest) if wanted is None else wanted
    if not 1 <= capacity <= longest:
        raise MpkirError(
            f"a capacity of {capacity} positions, but the model is made for 1 to {longest}",
            hint="choose one in that range with capacity= or --capacity",
        )
    return capacity


def _capacity_of(module: Any) -> int:
    from mpkir.dialects import tensor

    sequence = next(
        op for op in module.walk() if isinstance(op, tensor.StateOp) and op.sym.data == "tokens"
    )
    return tensor.shape_of(sequence.result)[-1] - 1


def _constants_of(model: Any) -> dict[str, torch.Tensor]:
    """Buffers with values that no checkpoint holds, e.g. rotary frequencies."""
    saved = set(model.state_dict())
    return {
        name: buffer
        for name, buffer in model.named_buffers()
        if name not in saved and buffer.device.type != "meta"
    }


def _tokenizer_files(tokenizer: Any) -> dict[str, bytes]:
    if tokenizer is None:
        return {}
    with tempfile.TemporaryDirectory() as directory:
        tokenizer.save_pretrained(directory)
        return {
            f"{TOKENIZER}/{file.name}": file.read_bytes()
            for file in sorted(Path(directory).iterdir())
            if file.is_file()
        }
