"""`mpk asm`: a runtime table from its text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpkir.tools.commands.options import Debug
from mpkir.tools.text_files import read_text


def asm(
    text: Annotated[Path, typer.Argument(help="A table's text form (.mpkt).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory for the .npy files.")],
    debug: Debug = False,
) -> None:
    """Assemble a runtime table from its text form.

    \b
    Example:
      mpk asm table.mpkt -o table
    """
    from mpkir.runtime.table_text import assemble

    assemble(read_text(text), str(text)).save(output)
    print(output)
