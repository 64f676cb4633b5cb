"""`mpk run`: one program on arrays."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mpkir.tools.commands.options import ArtifactPath, Debug


def run(
    artifact: ArtifactPath,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="NAME=FILE.npy for each input; may be repeated."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory for the outputs as .npy.")
    ] = None,
    position: Annotated[int, typer.Option(help="Position of the first step.")] = 0,
    steps: Annotated[int, typer.Option(help="Steps to run.")] = 1,
    debug: Debug = False,
) -> None:
    """Run a compiled program's step on arrays.

    \b
    Example:
      mpk run mlp -i x=x.npy -o results
    """
    from mpkir.tools import ranks
    from mpkir.tools.arrays import run_on_files

    count = ranks.ranks_of(str(artifact), None)
    if ranks.starts_here(count):
        options = ranks.options_of(
            input=inputs, output=output, position=position, steps=steps, debug=debug
        )
        sys.exit(ranks.run("run", [*options, "--", str(artifact)], count))
    for line in run_on_files(artifact, inputs or [], output, position, steps):
        print(line)
