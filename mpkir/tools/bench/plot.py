"""Records of decode steps as a bar chart in SVG, the floor a line across the bars that have it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from mpkir.errors import MpkirError
from mpkir.tools.bench.report import Record, group_of, name_of
from mpkir.tools.text_files import write_text

COLORS = ("#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#17becf")
ROW, GAP, LEFT, WIDTH, RIGHT = 20, 40, 260, 520, 120
"""Pixels: a bar's row, between groups, before the bars, of the longest bar, for its label."""


def write_plot(path: Path, records: Sequence[Record]) -> None:
    """Write the chart. Raises MpkirError for another format than SVG."""
    if path.suffix != ".svg":
        raise MpkirError(f"plots are SVG, not {path.suffix or 'nothing'}", hint="name it .svg")
    write_text(path, plot(records))


def plot(records: Sequence[Record]) -> str:
    """Horizontal bars of medians with their least and most, a group for each model, batch size and
    range of positions, each group on a scale of its own from 0."""
    names = list(dict.fromkeys(name_of(record) for record in records))
    color = {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}
    parts: list[str] = []
    y = 10
    for (model, batch, positions), group in groupby(records, group_of):
        bars = list(group)
        scale = WIDTH / max(max(r["ms_max"], r["floor_ms"]) for r in bars)
        title = f"{model}, batch {batch}, positions {'-'.join(map(str, positions))}"
        parts.append(f'<text x="{LEFT}" y="{y + 12}" font-weight="bold">{escape(title)}</text>')
        y += 20
        for floor_ms, alike in groupby(bars, lambda record: record["floor_ms"]):
            top = y
            for record in alike:
                parts += _bar(record, y, scale, color[name_of(record)])
                y += ROW
            floor = LEFT + floor_ms * scale
            parts.append(
                f'<path d="M{floor:.1f},{top - 2} V{y}" stroke="#d62728" stroke-dasharray="4 3"/>'
            )
        lowest = min(bars, key=lambda record: record["floor_ms"])["floor_ms"]
        parts.append(
            f'<text x="{LEFT + lowest * scale:.1f}" y="{y + 12}" fill="#d62728" '
            f'text-anchor="middle">floor {lowest:.3f} ms</text>'
        )
        y += GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + RIGHT} {y}" '
    style = 'font-family="sans-serif" font-size="12" fill="#555">'
    return "\n".join([head + style, *parts, "</svg>"]) + "\n"


def _bar(record: Record, y: int, scale: float, color: str) -> list[str]:
    end, least, most = (LEFT + record[key] * scale for key in ("ms", "ms_min", "ms_max"))
    middle, text = y + (ROW - 6) / 2, y + ROW - 9
    label = f"{record['ms']:.3f} ms, {record['share_of_floor']:.0%}"
    return [
        f'<text x="{LEFT - 6}" y="{text}" text-anchor="end">{escape(name_of(record))}</text>',
        f'<rect x="{LEFT}" y="{y}" width="{end - LEFT:.1f}" height="{ROW - 6}" fill="{color}"/>',
        f'<path d="M{least:.1f},{middle} H{most:.1f}" stroke="#333"/>',
        f'<text x="{most + 6:.1f}" y="{text}">{label}</text>',
    ]
