"""What the command line can compile: checkpoints, configurations, exported programs, IR."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from xdsl.dialects.builtin import ModuleOp

from mpkir.checkpoints import load_checkpoint
from mpkir.compiler import compile_module
from mpkir.errors import MpkirError
from mpkir.language_model import LanguageModel, capacity_for, compile_language_model
from mpkir.machine import machine_named
from mpkir.pipeline import POLICY
from mpkir.progress import Progress
from mpkir.runtime.artifact import Artifact, check_replaceable
from mpkir.runtime.generation import LoadedLanguageModel
from mpkir.runtime.manifest import MANIFEST, Signature
from mpkir.tools.text_files import read_text
from mpkir.variant import DEFAULT, Variant


@dataclass(frozen=True)
class SourceModule:
    """A module at tensor level and what came with it."""

    module: ModuleOp
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])
    signature: Signature | None = None
    states: Mapping[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])
    """First values of states that do not begin as zeros."""


def module_of(source: str, capacity: int | None, batch: int = 1) -> SourceModule:
    """The tensor-level module of an exported program, IR file, configuration or checkpoint."""
    from mpkir.frontend import (
        decode_step,
        first_states,
        import_program,
        signature_of,
        tensors_of,
        without_torch_notes,
    )

    path = Path(source)
    _check_batch(path, batch)
    match path.suffix:
        case ".mlir":
            return SourceModule(_parse(path))
        case ".pt2":
            with without_torch_notes():
                program = _exported(path)
                module = import_program(program)
                return SourceModule(
                    module,
                    tensors_of(program),
                    signature_of(program),
                    first_states(module, program),
                )
        case ".json":
            model, stop = _from_config(path), ()
        case _:
            loaded = load_checkpoint(source)
            model, stop = loaded.model, loaded.stop
    with without_torch_notes():
        step = decode_step(model, capacity_for(model, capacity), stop=stop, batch=batch)
        return SourceModule(step)


def _check_batch(path: Path, batch: int) -> None:
    if batch != 1 and path.suffix in (".mlir", ".pt2"):
        raise MpkirError(
            f"{path} is exported already, with the batch that it has", hint="leave out --batch"
        )


def compile_source(
    source: str,
    target: str,
    *,
    workers: int | None,
    capacity: int | None,
    batch: int = 1,
    output: Path | None,
    weight_files: Sequence[Path] = (),
    dump: Path | None,
    policy: str = POLICY,
    variant: Variant = DEFAULT,
    progress: Progress,
    tp: int = 1,
) -> Artifact:
    """Compile whatever `source` names; a checkpoint's weights are stored in the artifact.

    `weight_files`: safetensors that the artifact refers to, for a source without weights; `tp`: how
    many ranks run it together.
    """
    from mpkir.frontend import weights_of

    path = Path(source)
    machine = machine_named(target, workers, tp)
    _check_batch(path, batch)
    if output is not None:
        check_replaceable(output)
    if weight_files and path.suffix not in (".mlir", ".json"):
        raise MpkirError(f"{source} brings its own weights", hint="leave out --weights")
    for file in weight_files:
        if not file.is_file():
            raise MpkirError("there is no such file", where=str(file))
    if path.suffix in (".mlir", ".pt2"):
        found = module_of(source, capacity)
        return compile_module(
            found.module,
            machine,
            output=output,
            constants=found.states,
            weights=found.weights or None,
            weight_files=weight_files,
            signature=found.signature,
            progress=progress,
            dump=dump,
            policy=policy,
            variant=variant,
            tp=tp,
        )
    options: dict[str, Any] = {
        "capacity": capacity,
        "batch": batch,
        "workers": workers,
        "output": output,
        "progress": progress,
        "dump": dump,
        "policy": policy,
        "variant": variant,
        "tp": tp,
    }
    if path.suffix == ".json":
        model = _from_config(path)
        return compile_language_model(model, target, weight_files=weight_files, **options)
    with progress.stage("load the checkpoint"):
        loaded = load_checkpoint(source)
    return compile_language_model(
        loaded.model,
        target,
        tokenizer=loaded.tokenizer,
        stop=loaded.stop,
        weights=weights_of(loaded.model),
        **options,
    )


def language_model(
    source: str,
    target: str,
    workers: int | None,
    capacity: int | None,
    progress: Progress,
    batch: int = 1,
    tp: int = 1,
) -> LoadedLanguageModel:
    """A language model from an artifact, which has its own batch and ranks, or compiled from a
    checkpoint."""
    path = Path(source)
    if (path / MANIFEST).is_file():
        return LoadedLanguageModel.load(path)
    return LanguageModel.from_pretrained(
        source, target, workers=workers, capacity=capacity, batch=batch, progress=progress, tp=tp
    )


def _parse(path: Path) -> ModuleOp:
    from xdsl.parser import Parser
    from xdsl.utils.exceptions import DiagnosticException, ParseError, VerifyException

    from mpkir.pipeline import context

    text = read_text(path)
    try:
        module = Parser(context(), text, str(path)).parse_module()
        module.verify()
    except ParseError as error:
        raise MpkirError(f"this is not valid IR\n{error}".rstrip(), where=str(path)) from error
    except (DiagnosticException, VerifyException) as error:
        raise MpkirError(f"this is not valid IR: {error}", where=str(path)) from error
    return module


def _exported(path: Path) -> torch.export.ExportedProgram:
    if not path.is_file():
        raise MpkirError("there is no such file", where=str(path))
    log = logging.getLogger("torch.export")
    level = log.level
    try:
        # torch logs the whole traceback besides raising it.
        log.setLevel(logging.CRITICAL)
        return torch.export.load(path)
    except Exception as error:
        raise MpkirError(
            f"this is not an exported program ({type(error).__name__})",
            where=str(path),
            hint="write one with torch.export.save(torch.export.export(module, args), path)",
        ) from error
    finally:
        log.setLevel(level)


def _from_config(path: Path) -> Any:
    from mpkir.frontend import model_from_config
    from mpkir.tools.bench.models import read_configuration

    read_text(path)
    return model_from_config(read_configuration(path))
