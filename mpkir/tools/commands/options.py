"""Arguments and options that several commands of `mpk` share, in one spelling and one wording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[
    str,
    typer.Argument(
        help="A model: directory, hub name or .gguf; an exported program (.pt2); IR (.mlir); "
        "or a config.json, for the model without its weights."
    ),
]
ArtifactPath = Annotated[Path, typer.Argument(help="A directory that `mpk compile` wrote.")]
Target = Annotated[str, typer.Option("--target", "-t", help="cpu, h100, h200, a100.")]
Workers = Annotated[
    int | None, typer.Option(help="SMs or threads to use; all of the target's by default.")
]
Capacity = Annotated[int | None, typer.Option(help="Longest sequence; at most 1024 by default.")]
Batch = Annotated[
    int, typer.Option(min=1, help="Sequences that a step decodes at once, in lock-step.")
]
Ranks = Annotated[
    int | None, typer.Option("--tp", min=1, help="Ranks (GPUs) that run it together; 1 by default.")
]
Policy = Annotated[
    str | None,
    typer.Option(help="Who schedules: round-robin, list, hybrid, dynamic, or a plugin's."),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--load-plugin", help="A file with operators, passes, machines, ..; may be repeated."
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the Python traceback of an error.")]
