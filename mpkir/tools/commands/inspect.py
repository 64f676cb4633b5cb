"""`mpk inspect`: what an artifact, or a task graph, holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpkir.tools.commands.options import Capacity, Debug, Target, Workers


def inspect(
    source: Annotated[
        str, typer.Argument(help="A directory that `mpk compile` wrote; with --graph a source.")
    ],
    graph: Annotated[
        bool,
        typer.Option(
            "--graph", help="Count tasks, dependent pairs, events, waits of a source or of IR."
        ),
    ] = False,
    target: Target = "h100",
    workers: Workers = None,
    capacity: Capacity = None,
    debug: Debug = False,
) -> None:
    """Show what an artifact holds: target, buffers, bodies, tasks, events.

    With --graph: how big the task graph of a model or of IR at any level is.

    \b
    Examples:
      mpk inspect smollm2
      mpk inspect config.json --graph -t h100
      mpk inspect dump/12-mpk-linearize-tasks.mlir --graph
    """
    from rich.console import Console

    from mpkir.tools.inspection import describe, describe_graph

    console = Console()
    if not graph:
        parts = describe(Path(source))
    else:
        parts = describe_graph(source, target, workers, capacity)
    for part in parts:
        console.print(part)
