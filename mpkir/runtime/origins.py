"""Where the families of a program come from, for whoever looks at one that ran: families.json.

Kernels do not need it; artifacts of older versions are without it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mpkir.errors import MpkirError
from mpkir.runtime.json_records import decode, encode
from mpkir.runtime.manifest import Manifest
from mpkir.runtime.table import Table, TaskField

ORIGINS = "families.json"


@dataclass(frozen=True)
class Origin:
    """Of one family.

    operator  what its tasks do: the tile operator's name without its dialect, e.g. "linear"
    reads     how many of its operands in the table it reads; it writes the rest
    line      the user's: "models/llama/modeling_llama.py:243"; "" if unknown
    text      that line, stripped; "" if unknown
    begins    of chunks of a split attention the position of the cache that each task's rows begin
              with, by index; () of others
    """

    operator: str
    reads: int
    line: str = ""
    text: str = ""
    begins: tuple[int, ...] = ()


@dataclass(frozen=True)
class _File:
    families: tuple[Origin, ...]


def to_json(origins: Sequence[Origin]) -> bytes:
    """The file's content; origins in the order of families in the table."""
    return (json.dumps(encode(_File(tuple(origins))), indent=1) + "\n").encode()


def origins_of(folder: Path, manifest: Manifest) -> tuple[Origin, ...]:
    """Read an artifact's; () if it has none. Raises MpkirError for a damaged file."""
    path = folder / ORIGINS
    if not path.is_file():
        return ()
    try:
        found = decode(_File, json.loads(path.read_text(encoding="utf-8")), str(path)).families
    except (OSError, ValueError) as error:
        raise MpkirError(f"the file cannot be read ({error})", where=str(path)) from error
    if len(found) != len(manifest.families):
        raise MpkirError(
            f"it has {len(found)} families, the manifest {len(manifest.families)}", where=str(path)
        )
    return found


def flagged_writers(
    table: Table, manifest: Manifest, origins: Sequence[Origin]
) -> dict[int, tuple[int, ...]]:
    """The families that write each flagged buffer, by the buffer's id; () if it is not known."""
    writers: dict[int, tuple[int, ...]] = {
        number: () for number, buffer in enumerate(manifest.buffers) if buffer.flagged
    }
    for family, origin in enumerate(origins):
        for buffer in table.operands(family)[origin.reads :]:
            if buffer in writers:
                writers[buffer] = (*writers[buffer], family)
    return writers


def partial_buffers(
    writers: Mapping[int, Sequence[int]], origins: Sequence[Origin]
) -> frozenset[int]:
    """Of flagged buffers, given who writes each, those of which a step may write a part only: what
    chunks of a split attention have to say, of whom some may be left out."""
    return frozenset(
        buffer
        for buffer, families in writers.items()
        if families and all(origins[each].begins for each in families)
    )


def left_out(table: Table, origins: Sequence[Origin], last: int) -> npt.NDArray[np.bool_]:
    """Which tasks have nothing to say in a step whose last token is at position `last`: chunks that
    begin behind it. They store nothing, and nobody who polls waits for them; [tasks]"""
    result = np.zeros(table.task_count, np.bool_)
    for family, origin in enumerate(origins):
        if origin.begins:
            rows = np.flatnonzero(table.tasks[:, TaskField.FAMILY] == family)
            begins = np.array(origin.begins, np.int64)
            result[rows] = begins[table.tasks[rows, TaskField.INDEX]] > last
    return result
