"""Language models from Hugging Face directories, hub names, GGUF files or bare configurations."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mpkir import program_cache
from mpkir.checkpoints import load_checkpoint, made_weights, open_checkpoint
from mpkir.collection import rare_collection
from mpkir.compiler import compile_module
from mpkir.errors import MpkirError
from mpkir.frontend import export_step, settle_frequencies, weights_of, without_torch_notes
from mpkir.machine import machine_named
from mpkir.pipeline import POLICY
from mpkir.program_cache import Key
from mpkir.progress import SILENT, Progress
from mpkir.runtime.arrangement import Arrangement
from mpkir.runtime.artifact import Artifact, check_replaceable, load_artifact
from mpkir.runtime.generation import TOKENIZER, LoadedLanguageModel
from mpkir.runtime.manifest import LanguageRoles
from mpkir.runtime.program import Program
from mpkir.runtime.ranks.group import Group, telling
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
        tp: int = 1,
    ) -> LanguageModel:
        """Load a model's weights and tokenizer, compile its decode step, and bind both.

        source: a directory, a hub name that is in the local cache, or a .gguf file; target and
        workers and policy as in `mpkir.compile`; capacity: longest sequence; batch: prompts
        that are answered at once; output: the artifact's directory, which then holds the weights
        too; without it the artifact lies in the cache and the weights stay where they are. tp: how
        many ranks run the model together; each is a process that torchrun has started and that
        makes the same calls, and reads its part of the weights only. Raises MpkirError.
        """
        machine_named(target, workers, tp)
        if output is not None:
            check_replaceable(output)
        options: dict[str, Any] = {
            "capacity": capacity,
            "batch": batch,
            "workers": workers,
            "output": output,
            "dump": dump,
            "policy": policy,
        }
        if tp == 1:
            with progress.stage("load the checkpoint"):
                loaded = load_checkpoint(source)
            return cls.from_model(
                loaded.model,
                target,
                tokenizer=loaded.tokenizer,
                stop=loaded.stop,
                progress=progress,
                **options,
            )
        group = Group.join(tp)
        progress = progress if group.rank == 0 else SILENT
        with telling(group):
            opened = None
            with progress.stage("open the checkpoint"):
                if group.number_on_host == 0:  # a GGUF file is expanded, once on a host
                    opened = open_checkpoint(source)
                group.barrier()
                opened = opened or open_checkpoint(source)
            loaded, weights = opened
            artifact = _compiled_once(
                group,
                loaded.model,
                target,
                tokenizer=loaded.tokenizer,
                stop=loaded.stop,
                weights=weights if output is not None else None,
                progress=progress,
                **options,
            )
            with progress.stage("load the weights"):
                return cls(Program(artifact, weights=weights, group=group))

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
        settle_frequencies(model)
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


def _compiled_once(group: Group, model: Any, target: str, **options: Any) -> Artifact:
    """The artifact of a language model, compiled by one rank of each host for those beside it."""
    own = None
    if group.number_on_host == 0:
        own = compile_language_model(model, target, tp=group.ranks, **options)
    paths = group.gather(b"" if own is None else os.fsencode(own.path))
    if own is not None:
        return own
    hosts = [member.machine for member in group.members]
    return load_artifact(os.fsdecode(paths[hosts.index(hosts[group.rank])]), group.place_on_host)


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
    weights: Mapping[str, torch.Tensor] | None = None,
    weight_files: Sequence[str | Path] = (),
    progress: Progress = SILENT,
    dump: str | Path | None = None,
    policy: str = POLICY,
    variant: Variant = DEFAULT,
    tp: int = 1,
) -> Artifact:
    """Compile a language model's decode step; its parameters may lie on the meta device.

    The artifact keeps the configuration, the tokenizer and the model's constants (rotary
    frequencies); `weights` are stored with it, `weight_files` referred to, if given; `variant` is
    what is done otherwise than by default; `tp` is how many ranks run it together.
    """
    machine = machine_named(target, workers, tp)
    capacity = capacity_for(model, capacity)
    with progress.stage("read constants and tokenizer"):
        constants, extra_files = _constants_of(model), _tokenizer_files(tokenizer)
        extra_files["config.json"] = model.config.to_json_string().encode()
    key: Key | None = None
    if output is None:
        with progress.stage("look into the cache"):
            files = tuple(str(Path(file).resolve()) for file in weight_files)
            parts = (machine, capacity, batch, tuple(stop), policy, variant, tp, files)
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
        made_weights=_made_weights(model, weight_files),
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
        tp=tp,
    )
    if key is not None:
        program_cache.remember(key, artifact)
    return artifact


def _made_weights(model: Any, files: Sequence[str | Path]) -> dict[str, Arrangement]:
    """The weights of a model that its files hold under other names or in pieces."""
    made = made_weights(model, [Path(file) for file in files]) if files else None
    return {name: each for name, each in (made or {}).items() if each != name}


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
