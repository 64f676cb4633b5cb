"""Families as a message names them: the operator they came from, and the user's source line."""

from __future__ import annotations

from xdsl.dialects.builtin import FileLineColLoc, NameLoc
from xdsl.ir import Attribute

from mpkir.analysis.families import Family


def location_text(location: Attribute) -> str | None:
    """A location as people read it: the model's module path, its file and line."""
    match location:
        case FileLineColLoc():
            return f"{location.filename.data}:{location.line.data}:{location.column.data}"
        case NameLoc():
            inner = location_text(location.location)
            parts = [part for part in (location.desc.data, inner) if part]
            return ", ".join(parts) or None
        case _:
            return None


def operator_text(family: Family) -> str:
    """The operator of a family's tasks and where it stands in the model."""
    names = [op.name for op in family.op.body.block.ops][:-1]
    text = names[-1] if names else "join"
    place = location_text(family.op.location)
    return text if place is None else f"{text} at {place}"
