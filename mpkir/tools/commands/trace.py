"""`mpk trace`: a step as it ran."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mpkir.tools.commands.options import ArtifactPath, Debug


def trace(
    artifact: ArtifactPath,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Files to write, without their endings.")
    ] = Path("trace"),
    given: Annotated[
        Path | None, typer.Option("--from", help="Draw this recording (.npz) of the artifact.")
    ] = None,
    position: Annotated[int, typer.Option(help="The first step's place in the sequence.")] = 100,
    steps: Annotated[int, typer.Option(help="Steps to keep.")] = 1,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="For an artifact without weights.")
    ] = False,
    plan: Annotated[
        str | None, typer.Option(help="What it was compiled from: draw the simulated step, too.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    perfetto: Annotated[bool, typer.Option(help="Write OUTPUT.pftrace as well.")] = True,
    json: Annotated[
        Path | None, typer.Option(help="Write the facts to this file; - prints them.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Show a step as it ran: workers by time, waits and their causes, the critical path.

    Runs a traced build of the artifact on its target, or reads what was recorded elsewhere, and
    writes a recording (.npz), a page (.html) and a Perfetto trace (.pftrace).

    \b
    Examples:
      mpk trace smollm2 --position 32
      mpk trace llama --from llama.npz --plan config.json -o llama-trace
    """
    from mpkir.tools.display import StageDisplay
    from mpkir.tools.trace import command

    with StageDisplay() as display:
        found, written = command.run(
            artifact,
            output,
            given=given,
            position=position,
            kept=steps,
            random=random_weights,
            plan=plan,
            perfetto=perfetto,
            title=title,
            progress=display.progress,
        )
    if json is not None:
        from mpkir.tools.simulation import write_json

        write_json(json, found)
    for path in written:
        print(path, file=sys.stderr if str(json) == "-" else sys.stdout)
