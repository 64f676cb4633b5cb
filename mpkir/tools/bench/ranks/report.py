"""Records of steps on several ranks as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from mpkir.tools.bench.ranks.records import Record
from mpkir.tools.bench.report import errors_of, sections, times_of

COLUMNS = (
    "ms: median",
    "least - most",
    "GB/s a rank",
    "floor",
    "share",
    "of one rank",
    "exposed",
    "over torch",
    "logit error",
    "bf16's",
)


def table_of(records: Sequence[Record]) -> Table:
    """One line for each system, a section for each model, batch size and range of positions."""
    return sections("a decode step on several ranks", COLUMNS, records, _cells)


def _cells(record: Record) -> list[str]:
    exposed = ""
    if "exposed_ms" in record:
        exposed = f"{record['exposed_ms']:.3f} ms, {record['exposed_share']:.1%}"
    return [
        *times_of(record),
        f"{record['of_one_rank']:.3f}x" if "of_one_rank" in record else "",
        exposed,
        f"{record['times_faster']:.2f}x" if "times_faster" in record else "",
        *errors_of(record),
    ]
