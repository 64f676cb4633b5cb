"""`mpk disasm`: a runtime table as text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpkir.tools.commands.options import ArtifactPath, Debug
from mpkir.tools.text_files import write_text


def disasm(
    artifact: ArtifactPath,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
    debug: Debug = False,
) -> None:
    """Print an artifact's runtime table as text (.mpkt).

    \b
    Example:
      mpk disasm smollm2 -o table.mpkt
    """
    from mpkir.runtime.artifact import load_artifact
    from mpkir.runtime.table_text import disassemble

    text = disassemble(load_artifact(artifact).table)
    if output is None:
        print(text, end="")
        return
    write_text(output, text)
