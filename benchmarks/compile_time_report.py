"""docs/compile-time.md and its plot, from benchmarks/results/compile-time.json alone.

python benchmarks/compile_time_report.py
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "compile-time.json"
PAGE, PLOT = ROOT / "docs" / "compile-time.md", ROOT / "docs" / "compile-time.svg"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
STRETCHED = "qwen3-8b"


def records(benchmark: str) -> list[dict[str, Any]]:
    """The records of one kind."""
    return [r for r in json.loads(RESULTS.read_text("utf-8")) if r["benchmark"] == benchmark]


def tables() -> str:
    """Models by stages, then compilations from the cache, as Markdown."""
    rows = records("compile")
    full = list({row["model"]: row for row in reversed(rows) if is_whole(row, rows)}.values())
    stages = list(dict.fromkeys(stage for row in full for stage in row["cpu_s"]))
    apart = ("load torch and transformers", "build", "export")
    lines = [
        f"| CPU seconds | {' | '.join(row['model'] for row in full)} |",
        f"| --- |{' --- |' * len(full)}",
        _line("layers", [str(row["layers"]) for row in full]),
        _line("export (torch)", [f"{row['cpu_s']['export']:.1f}" for row in full]),
        *(
            _line(stage, [f"{row['cpu_s'].get(stage, 0):.2f}" for row in full])
            for stage in stages
            if stage not in apart
        ),
        _line("**ExportedProgram to table**", [f"**{row['compile_cpu_s']:.1f}**" for row in full]),
        _line("the same by the clock", [f"{row['compile_wall_s']:.1f}" for row in full]),
        _line("peak memory, MiB", [str(row["peak_mib"]) for row in full]),
        "",
        "| compiled again, from the cache | target | loading the model, s | compiling, s |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['model']} | {row['target']} | {row['load_s']:.2f} | {row['compile_wall_s']:.2f} |"
        for row in records("compile-again")
    ]
    return "\n".join(lines)


def is_whole(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> bool:
    """Whether a record is of a model at its own depth, which is measured first."""
    return row is next(each for each in rows if each["model"] == row["model"])


def _line(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def plot() -> str:
    """CPU seconds over layers as a plot, with the import and without."""
    rows = {r["layers"]: r for r in records("compile") if r["model"] == STRETCHED}
    layers = sorted(rows)
    series = {
        "in all, from ExportedProgram to table": [rows[n]["compile_cpu_s"] for n in layers],
        "of it passes, table and source": [
            rows[n]["compile_cpu_s"] - rows[n]["cpu_s"]["import"] for n in layers
        ],
    }
    width, height, left, bottom = 640, 360, 50, 40
    top = max(max(values) for values in series.values()) * 1.15

    def at(n: float, seconds: float) -> tuple[float, float]:
        x = left + (width - left - 20) * n / (max(layers) * 1.05)
        return round(x, 1), round(height - bottom - (height - bottom - 20) * seconds / top, 1)

    ink = 'fill="none" stroke="#888"'
    (x0, y0), (x1, _), (_, y1) = at(0, 0), at(max(layers) * 1.05, 0), at(0, top)
    parts = [f'<path d="M{x0},{y1} V{y0} H{x1}" {ink}/>']
    for n in layers:
        x, y = at(n, 0)
        parts.append(f'<text x="{x}" y="{y + 16}" text-anchor="middle">{n}</text>')
    step = max(1, round(top / 6))
    for seconds in range(0, int(top) + 1, step):
        x, y = at(0, seconds)
        parts.append(f'<text x="{x - 6}" y="{y + 4}" text-anchor="end">{seconds}</text>')
    for (name, values), color in zip(series.items(), ("#1f77b4", "#2ca02c"), strict=True):
        points = [at(n, s) for n, s in zip(layers, values, strict=True)]
        line = " ".join(f"{x},{y}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{color}"/>' for x, y in points]
        x, y = left + 20, 30 + 18 * list(series).index(name)
        parts.append(f'<text x="{x}" y="{y}" fill="{color}">{name}</text>')
    parts.append(f'<text x="{width / 2}" y="{height - 6}" text-anchor="middle">layers</text>')
    parts.append(f'<text x="{left}" y="12">CPU s</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
    style = 'font-family="sans-serif" font-size="12" fill="#555">'
    return "\n".join([head + style, *parts, "</svg>"]) + "\n"


def main() -> None:
    """Write the tables into the page, and the plot beside it."""
    before, rest = PAGE.read_text("utf-8").split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{tables()}\n{END}{after}", "utf-8")
    PLOT.write_text(plot(), "utf-8")


if __name__ == "__main__":
    main()
