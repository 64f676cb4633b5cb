"""`mpk export`: a model's step as IR."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpkir.tools.commands.options import Batch, Capacity, Debug, Plugins, Source
from mpkir.tools.text_files import write_text


def export(
    source: Source,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; - or none: print.")
    ] = None,
    capacity: Capacity = None,
    batch: Batch = 1,
    raised: Annotated[
        bool, typer.Option(help="Recognise norms, attention and the like first.")
    ] = True,
    load_plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Write a model's step as IR at tensor level.

    \b
    Examples:
      mpk export model.gguf -o step.mlir
      mpk export mlp.pt2 --no-raised | mpk-opt -f mlir -p mpk-raise
    """
    from mpkir.compiler import text_of
    from mpkir.tools import sources

    module = sources.module_of(source, capacity, batch).module
    if raised:
        from mpkir.passes.raise_operators import RaiseOperatorsPass
        from mpkir.pipeline import context

        RaiseOperatorsPass().apply(context(), module)
    text = text_of(module)
    if output is None or str(output) == "-":
        print(text, end="")
        return
    write_text(output, text)
