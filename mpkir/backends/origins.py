"""What an artifact remembers of its families of tasks: the line of the user's model that each comes
from, and what a table does not say of their operators."""

from __future__ import annotations

import linecache
from collections.abc import Sequence
from pathlib import Path, PurePath

from xdsl.dialects.builtin import FileLineColLoc, ModuleOp, NameLoc
from xdsl.ir import Attribute, BlockArgument

from mpkir.analysis.families import Family, evaluate, families_of
from mpkir.backends.body import Body
from mpkir.dialects import tensor
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
        Origin(
            operators[family.name],
            len(family.op.reads),
            *_line(family.op.location),
            begins=_begins(family),
        )
        for family in families_of(module)
    )


def _begins(family: Family) -> tuple[int, ...]:
    """Of a family of chunks of attention the first position that each task's rows are of."""
    for op in family.op.body.block.ops:
        if isinstance(op, tensor.AttentionSplitOp):
            assert isinstance(op.k_cache, BlockArgument), "a tile is cut from the cache itself"
            box = family.accesses[op.k_cache.index].box
            rounds, chunk, row = evaluate(box.offsets.data, family.coordinates)[:, 2:5].T
            return tuple(((rounds * op.chunks.value.data + chunk) * op.block + row).tolist())
    return ()


def _line(location: Attribute) -> tuple[str, str]:
    """A location's file and line, and the text there if the file is at hand."""
    if isinstance(location, NameLoc):
        location = location.location
    if not isinstance(location, FileLineColLoc):
        return "", ""
    file, number = location.filename.data, location.line.data
    text = linecache.getline(file, number).strip() if Path(file).is_absolute() else ""
    return f"{PurePath(*PurePath(file).parts[-_SHOWN_PARTS:])}:{number}", text
