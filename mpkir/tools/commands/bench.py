"""`mpk bench`: the decode step beside other systems."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mpkir.errors import MpkirError
from mpkir.tools.commands.options import Capacity, Debug, Plugins, Workers


def bench(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Models: an artifact, a checkpoint, a config.json, or a known name such as "
            "qwen3-0.6b (the last two with random weights)."
        ),
    ] = None,
    artifacts: Annotated[
        Path | None,
        typer.Option(help="Take compiled programs DIR/NAME, DIR/NAME+VARIANT; compile nothing."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", help="Of the artifact, or the CPU, if not given."),
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, as in 1,2,4.")] = "1",
    position: Annotated[
        str, typer.Option(help="Positions of the first timed step, as in 32,1000,4000.")
    ] = "32",
    steps: Annotated[int, typer.Option(help="Dependent steps in one launch.")] = 127,
    runs: Annotated[int, typer.Option(help="Timed launches of each system.")] = 10,
    repeats: Annotated[int, typer.Option(help="Launches that must give the same bits.")] = 3,
    peers: Annotated[bool, typer.Option(help="Measure PyTorch beside it.")] = True,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="Only this one: eager, reduce-overhead, max-autotune; repeatable."),
    ] = None,
    per_operator: Annotated[
        bool | None,
        typer.Option(help="Measure a graph of one kernel for each operator, too."),
    ] = None,
    ablate: Annotated[
        list[str] | None,
        typer.Option(help="Variants to measure beside, as in in-flight=4,unpacked; repeatable."),
    ] = None,
    ablations: Annotated[bool, typer.Option("--list", help="List what --ablate knows.")] = False,
    tp: Annotated[
        str | None,
        typer.Option("--tp", help="Numbers of ranks (GPUs) to compare, as in 1,2,4."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Append the records to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the records into this .svg.")] = None,
    workers: Workers = None,
    capacity: Capacity = None,
    load_plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Time the decode step beside other systems: right answers first, then runs in turns.

    With --tp on several GPUs, too: the processes are started here, or by torchrun.

    \b
    Examples:
      mpk bench smollm2 --runs 20 --json results.json
      mpk bench qwen3-8b -t h200 --tp 1,2,4
      mpk bench qwen3-0.6b -t h100 --ablate in-flight=4,unpacked --plot qwen.svg
      mpk bench --artifacts build/h100 qwen3-0.6b --position 1000,4000 --no-peers
    """
    from rich.console import Console

    from mpkir.tools.ablations import ablations_named
    from mpkir.tools.bench import command
    from mpkir.tools.bench.session import Settings

    if ablations:
        Console().print(command.ablation_table())
        return
    settings = Settings(
        target=target or "",
        batches=command.numbers(batch, "batch sizes"),
        positions=command.numbers(position, "positions"),
        steps=steps,
        runs=runs,
        repeats=repeats,
        ablations=ablations_named(ablate or ()),
        artifacts=artifacts,
        workers=workers,
        capacity=capacity,
    )
    counts = command.numbers(tp, "ranks") if tp is not None else ()
    if set(counts) - {1}:
        if per_operator:
            raise MpkirError(
                "a kernel for each operator is for one rank", hint="leave out --tp, or it"
            )
        from mpkir.tools import ranks
        from mpkir.tools.bench.ranks import command as several

        words = ranks.options_of(
            artifacts=artifacts,
            target=target,
            batch=batch,
            position=position,
            steps=steps,
            runs=runs,
            repeats=repeats,
            ablate=ablate,
            peer=peer,
            no_peers=not peers,
            workers=workers,
            capacity=capacity,
            load_plugin=load_plugin,
            debug=debug,
        )
        sys.exit(
            several.run(
                sources or [],
                settings,
                counts,
                peers=(peer or ()) if peers else None,
                json=json,
                plot=plot,
                words=words,
            )
        )
    command.run(
        sources or [],
        settings,
        peers=(peer or ()) if peers else None,
        per_operator=per_operator,
        json=json,
        plot=plot,
    )
