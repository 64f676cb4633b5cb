"""Statistics of task graphs beside the paper's Table 2; needs no GPU.

python benchmarks/graph_statistics.py                    print docs/graph.md's table
python benchmarks/graph_statistics.py --write            put it between docs/graph.md's markers
python benchmarks/graph_statistics.py --json FILE [MODEL ..]   count again, write FILE
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "graph-statistics.json"
PAGE = ROOT / "docs" / "graph.md"
BEGIN, END = "<!-- statistics: begin -->", "<!-- statistics: end -->"
MODELS = ("qwen3-1.7b", "qwen3-8b", "qwen3-30b-a3b")

PAPER: dict[str, dict[str, float]] = {
    "qwen3-1.7b": {
        "operators": 229,
        "tasks_per_operator": 35.6,
        "events": 1870,
        "fusion_ratio": 37,
        "linearization_ratio": 4.4,
    },
    "qwen3-8b": {
        "operators": 293,
        "tasks_per_operator": 47.3,
        "events": 2366,
        "fusion_ratio": 68,
        "linearization_ratio": 5.9,
    },
    "qwen3-30b-a3b": {
        "operators": 533,
        "tasks_per_operator": 32.2,
        "events": 1142,
        "fusion_ratio": 118,
        "linearization_ratio": 15.0,
    },
}
"""The rows of Table 2."""

COLUMNS = {
    "operators": "operators",
    "tasks": "tasks",
    "tasks_per_operator": "tasks / operator",
    "data_pairs": "pairs by data",
    "events": "events",
    "fusion_ratio": "fusion",
    "linearization_ratio": "linearization",
    "chain": "longest chain",
    "waits": "waits",
    "signals": "signals",
}

EVENT_LEVEL = (
    "mpk-lower-dependencies,mpk-fuse-events,mpk-merge-events,mpk-eliminate-dependencies,"
    "mpk-normalize-events,mpk-linearize-tasks"
)


def count(model: str, imported: Path | None) -> Iterator[dict[str, Any]]:
    """The records of one model; `imported`: a directory where its IR may lie already."""
    from models import CAPACITY, configurations
    from paper_graph import paper_graph
    from xdsl.dialects.builtin import ModuleOp
    from xdsl.parser import Parser
    from xdsl.passes import PassPipeline

    from mpkir.analysis.statistics import GraphStatistics, statistics_of
    from mpkir.frontend import decode_step, model_from_config, without_torch_notes
    from mpkir.machine import machine_named
    from mpkir.pipeline import context, lower
    from mpkir.plugins import multiverse
    from mpkir.tools.bench import provenance

    def record(system: str, found: GraphStatistics) -> dict[str, Any]:
        numbers = {name: getattr(found, name) for name in COLUMNS}
        return {
            "benchmark": "graph",
            "system": system,
            "model": model,
            "gpu": "none (counted for an h100)",
            "gpus": 1,
            "batch": 1,
            **{k: round(v, 1) if isinstance(v, float) else v for k, v in numbers.items()},
            "pairs": found.pairs,
            "joins": found.joins,
            **provenance(),
        }

    def run(module: ModuleOp, pipeline: str) -> GraphStatistics:
        PassPipeline.parse_spec(multiverse().all_passes, pipeline).apply(context(), module)
        return statistics_of(module)

    configuration = configurations()[model]
    yield record("mpkir, the paper's tasks", run(paper_graph(configuration), EVENT_LEVEL))

    def step() -> ModuleOp:
        path = None if imported is None else imported / f"{model}.mlir"
        if path is not None and path.is_file():
            return Parser(context(), path.read_text("utf-8")).parse_module()
        with without_torch_notes():
            return decode_step(model_from_config(configuration), CAPACITY)

    machine = machine_named("h100")
    tiles = machine.tiles
    unfused = (
        f"mpk-raise,mpk-fuse-operators{{prologues=false}},mpk-widen-activations,"
        f"mpk-split-reductions{{attention_chunk={tiles.attention_chunk} "
        f"argmax_chunks={tiles.argmax_chunks}}},"
        f"mpk-partition-tiles{{workers={machine.workers} max_rows={tiles.max_rows} "
        f"task_overhead={tiles.task_overhead} min_elements={tiles.min_elements}}},{EVENT_LEVEL}"
    )
    yield record("mpkir, norms apart, a wait and a signal a task", run(step(), unfused))
    module = step()
    lower(module, machine)
    yield record("mpkir, default pipeline", statistics_of(module))


def records() -> list[dict[str, Any]]:
    """The records that were written last."""
    return json.loads(RESULTS.read_text("utf-8"))


def table() -> str:
    """The paper's rows and ours as Markdown."""
    lines = [
        f"| model | graph | {' | '.join(COLUMNS.values())} |",
        f"| --- | --- |{' --- |' * len(COLUMNS)}",
    ]
    rows = records()
    for model, published in PAPER.items():
        found = [row for row in rows if row["model"] == model]
        for system, numbers in [("the paper", published), *((r["system"], r) for r in found)]:
            cells = [_cell(numbers.get(name)) for name in COLUMNS]
            lines.append(f"| {model} | {system} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def main() -> None:
    """Print the table, write it into the page, or count again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--json", type=Path, help="count, and write the records here")
    parser.add_argument("--write", action="store_true", help="write the table into docs/graph.md")
    parser.add_argument(
        "--imported", type=Path, help="where MODEL.mlir may lie, as `mpk export --no-raised` wrote"
    )
    arguments = parser.parse_args()
    if arguments.json is not None:
        kept = json.loads(arguments.json.read_text("utf-8")) if arguments.json.exists() else []
        kept = [row for row in kept if row["model"] not in arguments.models]
        for model in arguments.models:
            for row in count(model, arguments.imported):
                print(row["model"], row["system"], {name: row[name] for name in COLUMNS})
                kept.append(row)
        arguments.json.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    if arguments.write:
        before, rest = PAGE.read_text("utf-8").split(BEGIN)
        after = rest.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}", "utf-8")
    elif arguments.json is None:
        print(table())


if __name__ == "__main__":
    main()
