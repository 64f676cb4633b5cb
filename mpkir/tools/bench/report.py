"""Records of decode steps as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

Record = dict[str, Any]


def name_of(record: Record) -> str:
    """What a system is called beside others: "torch.compile, reduce-overhead", and "tp=2" where
    several numbers of ranks are."""
    parts = [str(record[key]) for key in ("system", "mode", "variant") if key in record]
    return ", ".join([*parts, f"tp={record['tp']}"] if "tp" in record else parts)


def group_of(record: Record) -> tuple[str, int, tuple[int, ...]]:
    """What records of one run share: model, batch, positions."""
    return record["model"], record["batch"], tuple(record["positions"])


def sections(
    title: str,
    columns: Sequence[str],
    records: Sequence[Record],
    cells: Callable[[Record], Sequence[str]],
) -> Table:
    """A table with one line for each system, of its `cells`, a section for each model, batch size
    and range of positions.
    """
    table = Table("system", title=title)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for i, record in enumerate(records):
        if i == 0 or group_of(records[i - 1]) != group_of(record):
            model, batch, positions = group_of(record)
            where = f"batch {batch}, positions {'-'.join(map(str, positions))}"
            table.add_section()
            table.add_row(f"[bold]{model}[/], {where}")
        table.add_row(f"  {name_of(record)}", *cells(record))
    return table


def times_of(record: Record) -> list[str]:
    """Cells: the times of a step, what it reads a second, the memory's floor and its share."""
    return [
        f"{record['ms']:.3f}",
        f"{record['ms_min']:.3f} - {record['ms_max']:.3f}",
        f"{record['gb_s']:.0f}",
        f"{record['floor_ms']:.3f}",
        f"{record['share_of_floor']:.1%}",
    ]


def errors_of(record: Record) -> list[str]:
    """Cells: how far logits are from fp32's, and how far PyTorch's in bf16 are."""
    return [
        f"{record[key]:.4f}" if key in record else ""
        for key in ("logit_error", "logit_error_torch_bf16")
    ]


def table_of(records: Sequence[Record]) -> Table:
    """One line for each system, a section for each model, batch size and range of positions."""
    return sections(
        "a decode step",
        ("ms: median", "least - most", "GB/s", "floor", "share", "logit error", "bf16's"),
        records,
        lambda record: [*times_of(record), *errors_of(record)],
    )
