"""`mpk simulate`: a step played on a machine model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpkir.tools.commands.options import Capacity, Debug, Plugins, Policy, Workers


def simulate(
    source: Annotated[str, typer.Argument(help="A model as for compile, or scheduled IR (.mlir).")],
    target: Annotated[str, typer.Option("--target", "-t", help="h100, h200, a100, cpu.")] = "h100",
    machine: Annotated[
        Path | None, typer.Option(help="A machine model (.json) in place of the target's.")
    ] = None,
    workers: Workers = None,
    capacity: Capacity = None,
    policy: Policy = None,
    position: Annotated[int, typer.Option(help="The step's place in the sequence.")] = 95,
    artifact: Annotated[
        Path | None, typer.Option(help="Play this artifact's table, compiled from SOURCE.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Compare with a traced step of the artifact (.npz).")
    ] = None,
    tp: Annotated[int, typer.Option(help="Compile for so many GPUs, and play one of them.")] = 1,
    json: Annotated[
        Path | None, typer.Option(help="Write the facts to this file; - prints them.")
    ] = None,
    load_plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Play a step on a machine model: time, bandwidth, critical path, operators.

    \b
    Examples:
      mpk simulate config.json -t h200
      mpk simulate scheduled.mlir --policy list
      mpk simulate config.json --artifact llama --trace llama.npz --position 158
      mpk simulate config.json -t h200 --tp 8
    """
    from rich.console import Console

    from mpkir.tools import simulation
    from mpkir.tools.display import StageDisplay

    with StageDisplay() as display:
        found, tables = simulation.run(
            source,
            str(machine) if machine is not None else target,
            workers=workers,
            capacity=capacity,
            policy=policy,
            position=position,
            artifact=artifact,
            trace=trace,
            ranks=tp,
            progress=display.progress,
        )
    if json is not None:
        simulation.write_json(json, found)
    if json is None or str(json) != "-":
        console = Console()
        for table in tables:
            console.print(table)
