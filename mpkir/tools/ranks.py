"""`mpk` starts itself once for each rank, where torchrun has not."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mpkir.errors import MpkirError
from mpkir.runtime.artifact import read_manifest
from mpkir.runtime.manifest import MANIFEST
from mpkir.runtime.ranks.start import is_rank, run_ranks

Option = bool | int | str | Path | Sequence[Path] | Sequence[str] | None


def ranks_of(source: str, tp: int | None) -> int:
    """How many ranks run a source: as an artifact was compiled, or as is asked for. Raises
    MpkirError where both are known and differ."""
    path = Path(source)
    if not (path / MANIFEST).is_file():
        return tp or 1
    ranks = read_manifest(path).ranks
    if tp not in (None, ranks):
        raise MpkirError(
            f"it was compiled for {ranks} ranks, not {tp}",
            where=source,
            hint=f"leave out --tp, or compile again with --tp {tp}",
        )
    return ranks


def starts_here(ranks: int) -> bool:
    """Whether this process has to start the ranks of a program, of which it is none."""
    return ranks > 1 and not is_rank()


def options_of(**options: Option) -> list[str]:
    """The options of a command as they are written on its line; those that are not given or not
    set are left out."""
    return [word for name, value in options.items() for word in _words(name, value)]


def _words(name: str, value: Option) -> Iterator[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        if value:
            yield flag
    elif isinstance(value, int | str | Path):
        yield f"{flag}={value}"
    else:
        for item in value or ():
            yield f"{flag}={item}"


def run(command: str, words: Sequence[str], ranks: int) -> int:
    """Run a command of mpk on all ranks; its exit code."""
    return run_ranks([sys.executable, "-m", "mpkir.tools.mpk", command, *words], ranks)
