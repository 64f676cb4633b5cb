"""Compiling a model to be measured, by default and otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpkir.checkpoints import load_checkpoint
from mpkir.frontend import model_from_config
from mpkir.language_model import compile_language_model
from mpkir.progress import Progress
from mpkir.runtime.artifact import Artifact
from mpkir.tools.ablations import Ablation
from mpkir.tools.bench.models import ModelSource


def compile_variant(
    source: ModelSource,
    ablation: Ablation,
    *,
    target: str,
    batch: int,
    capacity: int | None,
    workers: int | None,
    progress: Progress,
    output: Path | None = None,
    tp: int = 1,
) -> Artifact:
    """The model's decode step, compiled as an ablation says for `tp` ranks; without `output` in the
    cache.

    A checkpoint's end-of-text tokens are left out: measured steps go on behind them.
    """
    return compile_language_model(
        model_without_values(source),
        target,
        batch=batch,
        capacity=capacity,
        workers=workers,
        output=output,
        progress=progress,
        variant=ablation.variant,
        tp=tp,
    )


def model_without_values(source: ModelSource) -> Any:
    """The model to compile; of a configuration one without weights."""
    if source.checkpoint is not None:
        return load_checkpoint(source.checkpoint).model
    return model_from_config(source.config)
