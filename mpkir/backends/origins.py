"""What an artifact remembers of the user's model: the line that each family of tasks comes from."""

from __future__ import annotations

import linecache
from collections.abc import Sequence
from pathlib import Path, PurePath

from xdsl.dialects.builtin import FileLineColLoc, ModuleOp, NameLoc
from xdsl.ir import Attribute

from mpkir.analysis.families import families_of
from mpkir.backends.body import Body
from mpkir.runtime.origins import Origin

_SHOWN_PARTS = 4
"""Of a file's path: where packages are installed says nothing about the model."""


def origins_in(module: ModuleOp, bodies: Sequence[Body]) -> tuple[Origin, ...]:
    """Of each family of a scheduled module, in the order of the table."""
    operators = {
        name: body.tile_ops[-1].name.rpartition(".")[2] if body.tile_ops else "join"
        for body in bodies
        for name in body.families
    }
    return tuple(
        Origin(operators[family.name], len(family.op.reads), *_line(family.op.location))
        for family in families_of(module)
    )


def _line(location: Attribute) -> tuple[str, str]:
    """A location's file and line, and the text there if the file is at hand."""
    if isinstance(location, NameLoc):
        location = location.location
    if not isinstance(location, FileLineColLoc):
        return "", ""
    file, number = location.filename.data, location.line.data
    text = linecache.getline(file, number).strip() if Path(file).is_absolute() else ""
    return f"{PurePath(*PurePath(file).parts[-_SHOWN_PARTS:])}:{number}", text
