"""Hold the simulator against measured steps: their times, and every operator of a traced one.

    python benchmarks/simulate.py --json benchmarks/results/simulate-h100.json [MODEL ..]
    python benchmarks/simulate.py --machine h200 --json benchmarks/results/simulate-h200.json

`--fit FILE` takes what benchmarks/fit_machine.py wrote, for the errors with a case left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

from measured_steps import MACHINE, Measured, operators_on_path, read_measured, record_of

from mpkir.analysis.simulator import Simulation, play
from mpkir.tools.bench import append_records
from mpkir.version import VERSION


def traced(each: Measured, played: Simulation) -> dict[str, dict[str, float]] | None:
    """What is published of a traced step: microseconds of the critical path by operator."""
    path = operators_on_path(played)
    return {
        name: {
            "us": round(path.get(name, 0.0), 1),
            "measured_us": round(wanted, 1),
            "error_of_step": round((path.get(name, 0.0) - wanted) / each.step, 4),
        }
        for name, wanted in each.path.items()
    } or None


def record(each: Measured) -> dict[str, Any]:
    """What is published of one case."""
    begun = perf_counter()
    played = play(each.plan)
    seconds = perf_counter() - begun
    measured = record_of(each.case)
    return {
        "benchmark": "simulate",
        "system": "mpkir-simulator",
        "model": each.model,
        "configuration": each.configuration,
        "fitted": each.fitted,
        "gpu": measured["gpu"],
        "gpus": measured["gpus"],
        "batch": measured["batch"],
        "positions": measured["positions"],
        "ms": round(played.step / 1e3, 4),
        "measured_ms": measured["ms"],
        "measured_in": each.case["results"],
        "measured_at": measured["commit"],
        "error": round(played.step / each.step - 1, 4),
        "error_left_out": None,
        "floor_ms": round(played.floor / 1e3, 4),
        "tasks": each.plan.graph.tasks,
        "seconds": round(seconds, 2),
        "traced": traced(each, played),
        "commit": commit(),
        "command": f"python {' '.join(sys.argv)}",
        "versions": {"python": platform.python_version(), "mpkir": VERSION},
        "date": date.today().isoformat(),
    }


def commit() -> str:
    """Of the checkout."""
    run = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return run.stdout.strip() or "unknown"


def main() -> None:
    """Simulate every case and write the records, in place of those of before."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--machine", default=MACHINE)
    parser.add_argument("--fit", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    records = [record(each) for each in read_measured(given.models, given.machine)]
    if given.fit is not None:
        errors = json.loads(given.fit.read_text(encoding="utf-8"))["errors"]
        left_out = {(e["model"], e["configuration"]): e["error_left_out"] for e in errors}
        for each in records:
            each["error_left_out"] = left_out.get((each["model"], each["configuration"]))
    for each in records:
        print(
            f"{each['model']:14} {each['configuration']:24} {each['ms']:.3f} ms, measured "
            f"{each['measured_ms']:.3f} ({each['error']:+.1%})",
            flush=True,
        )
    if given.json is not None:
        given.json.unlink(missing_ok=True)
        append_records(given.json, records)


if __name__ == "__main__":
    main()
