"""Records of steps on several ranks as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from mpkir.tools.bench.ranks.records import Record
from mpkir.tools.bench.report import group_of, name_of

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
    table = Table("system", title="a decode step on several ranks")
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for i, record in enumerate(records):
        if i == 0 or group_of(records[i - 1]) != group_of(record):
            model, batch, positions = group_of(record)
            where = f"batch {batch}, positions {'-'.join(map(str, positions))}"
            table.add_section()
            table.add_row(f"[bold]{model}[/], {where}")
        table.add_row(f"  {name_of(record)}", *_cells(record))
    return table


def _cells(record: Record) -> list[str]:
    exposed = ""
    if "exposed_ms" in record:
        exposed = f"{record['exposed_ms']:.3f} ms, {record['exposed_share']:.1%}"
    return [
        f"{record['ms']:.3f}",
        f"{record['ms_min']:.3f} - {record['ms_max']:.3f}",
        f"{record['gb_s']:.0f}",
        f"{record['floor_ms']:.3f}",
        f"{record['share_of_floor']:.1%}",
        f"{record['of_one_rank']:.3f}x" if "of_one_rank" in record else "",
        exposed,
        f"{record['times_faster']:.2f}x" if "times_faster" in record else "",
        *(
            f"{record[key]:.4f}" if key in record else ""
            for key in ("logit_error", "logit_error_torch_bf16")
        ),
    ]
