"""`mpk compile`: from a model to an artifact."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mpkir.errors import MpkirError
from mpkir.tools.commands.options import (
    Batch,
    Capacity,
    Debug,
    Plugins,
    Policy,
    Ranks,
    Source,
    Target,
    Workers,
)


def compile(
    source: Source,
    output: Annotated[Path, typer.Option("--output", "-o", help="The artifact's directory.")],
    target: Target = "cpu",
    workers: Workers = None,
    capacity: Capacity = None,
    batch: Batch = 1,
    weights: Annotated[
        list[Path] | None,
        typer.Option(help="Safetensors to refer to, for IR or a config.json; may be repeated."),
    ] = None,
    tp: Ranks = None,
    policy: Policy = None,
    launch: Annotated[
        str | None,
        typer.Option(
            help="persistent: one kernel that stays; per-operator: a kernel for each (GPUs)."
        ),
    ] = None,
    transport: Annotated[
        str | None,
        typer.Option(
            help="nvshmem: with --tp, for GPUs of several hosts that a network connects; direct."
        ),
    ] = None,
    ablate: Annotated[
        str | None, typer.Option(help="Compile this variant, as in unpacked; `mpk bench --list`.")
    ] = None,
    tuned: Annotated[
        bool, typer.Option(help="Take what was tuned for the same shapes (mpk tune).")
    ] = True,
    dump: Annotated[
        Path | None, typer.Option("--dump-dir", help="Write the IR after every pass here.")
    ] = None,
    timing: Annotated[
        bool, typer.Option(help="Print the time of every stage and pass, and the peak memory.")
    ] = False,
    load_plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Compile a model into an artifact.

    A checkpoint's weights are stored in it; those of a config.json are given by --weights, or when
    the artifact is loaded.

    \b
    Examples:
      mpk compile SmolLM2-135M-Instruct.gguf -t cpu -o smollm2
      mpk compile config.json -t h100 -o llama
      mpk compile config.json -t h200 --tp 4 -o llama-4
      mpk compile config.json -t h200 --tp 16 --transport nvshmem -o llama-16
      mpk compile config.json -t h100 --launch per-operator -o llama-baseline
      mpk compile config.json -t h100 --ablate in-flight=4 -o llama+in-flight=4
      mpk compile step.mlir --weights model.safetensors -o step
    """
    from mpkir.tools import sources
    from mpkir.tools.ablations import DEFAULT, ablation_named
    from mpkir.tools.display import StageDisplay
    from mpkir.tools.inspection import activations
    from mpkir.tools.timing import Timing

    if transport is not None and (tp or 1) == 1:
        raise MpkirError("--transport is how several ranks are connected", hint="give --tp, too")
    variant = (DEFAULT if ablate is None else ablation_named(ablate)).variant
    times = Timing()
    with StageDisplay() as display:
        artifact = sources.compile_source(
            source,
            _with_options(target, launch=launch, transport=transport),
            workers=workers,
            capacity=capacity,
            batch=batch,
            output=output,
            weight_files=weights or (),
            dump=dump,
            **({} if policy is None else {"policy": policy}),
            variant=variant if tuned else replace(variant, tuned=False),
            progress=times.watch(display.progress),
            tp=tp or 1,
        )
        display.note(activations(artifact.manifest))
    if timing:
        print(*times.lines(), sep="\n", file=sys.stderr)
    print(artifact.path)


def _with_options(target: str, **options: str | None) -> str:
    """A target with what else is asked for, as `machine_named` takes it: NAME{launch=..}."""
    words = [f"{name}={value}" for name, value in options.items() if value is not None]
    return f"{target}{{{','.join(words)}}}" if words else target
