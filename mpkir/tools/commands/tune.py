"""`mpk tune`: better choices for a model's shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpkir.errors import MpkirError
from mpkir.tools.commands.options import Batch, Capacity, Debug, Plugins, Workers


def tune(
    source: Annotated[
        str | None,
        typer.Argument(
            help="A model as for bench; or a MODEL.tune.json that --compile-to wrote, to measure "
            "its candidates here."
        ),
    ] = None,
    target: Annotated[str, typer.Option("--target", "-t", help="cpu, h100, h200, a100.")] = "h100",
    workers: Workers = None,
    capacity: Capacity = None,
    batch: Batch = 1,
    position: Annotated[int, typer.Option(help="Position of the first measured step.")] = 32,
    steps: Annotated[int, typer.Option(help="Dependent steps in one launch.")] = 127,
    runs: Annotated[int, typer.Option(help="Timed launches of each candidate.")] = 10,
    repeats: Annotated[
        int, typer.Option(help="Launches of each that have to give the same bits.")
    ] = 3,
    budget: Annotated[int, typer.Option(help="Most programs to simulate.")] = 60,
    proposals: Annotated[int, typer.Option(help="Of them to measure.")] = 4,
    also: Annotated[
        list[str] | None,
        typer.Option(help="A candidate to measure in any case: in_flight=3,slots=8; repeatable."),
    ] = None,
    simulate_only: Annotated[
        bool, typer.Option("--simulate-only", help="Let the simulator decide.")
    ] = False,
    compile_to: Annotated[
        Path | None, typer.Option(help="Compile the candidates into this directory; no more.")
    ] = None,
    measured: Annotated[
        Path | None, typer.Option(help="Write the measurements to this file, for --adopt.")
    ] = None,
    adopt: Annotated[
        Path | None, typer.Option(help="Keep what the measurements in this file decide.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option(help="Keep it in this file, not in the cache directory.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Append the adopted measurements to this results file.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Show what is kept for the target.")] = False,
    load_plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Find better choices for a model's shapes: the simulator proposes, measurement decides.

    What is found is kept by machine and shapes, and taken whenever these shapes are compiled.

    \b
    Examples:
      mpk tune qwen3-0.6b -t h100
      mpk tune qwen3-0.6b -t h100 --compile-to build/tune      # where the compiler is
      mpk tune build/tune/qwen3-0.6b.tune.json --measured m.tune.json   # where the GPU is
      mpk tune --adopt m.tune.json
      mpk tune --show -t h100
    """
    from mpkir.tools.tune import command

    if adopt is not None:
        command.adopt(adopt, into, json)
    if show:
        command.show(target)
    if source is None:
        if adopt is None and not show:
            raise MpkirError("nothing to tune", hint="name a model, or give --adopt or --show")
        return
    options = command.Options(
        target=target,
        workers=workers,
        batch=batch,
        capacity=capacity,
        position=position,
        steps=steps,
        runs=runs,
        repeats=repeats,
        budget=budget,
        proposals=proposals,
        also=tuple(also or ()),
        simulate_only=simulate_only,
        compile_to=compile_to,
        measured_to=measured,
        into=into,
    )
    command.run(source, options)
