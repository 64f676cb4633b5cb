"""Hold the simulator against measured steps: their times, and every operator of a traced one.

    python benchmarks/simulate.py --artifacts DIR --ir DIR --traces DIR --json FILE

`--fit FILE` takes what benchmarks/fit_machine.py wrote, for the errors with a model left out.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

from measured_steps import TRACED, Measured, arguments, read_measured, simulated_operators

from mpkir.analysis.plan import plan_of
from mpkir.analysis.simulator import play
from mpkir.analysis.task_times import Floats
from mpkir.passes.schedule_tasks import ScheduleTasksPass
from mpkir.pipeline import context
from mpkir.version import VERSION

POLICIES = ("round-robin", "list")


def policies(each: Measured) -> dict[str, dict[str, float]]:
    """Simulated steps of the same families under every policy, and how long scheduling took."""
    module, machine = each.module.clone(), each.plan.machine
    found: dict[str, dict[str, float]] = {}
    for policy in POLICIES:
        begun = perf_counter()
        schedule = ScheduleTasksPass(each.plan.workers, policy, machine.name)
        schedule.apply(context(), module)
        seconds = perf_counter() - begun
        played = play(plan_of(module, machine, each.position))
        found[policy] = {"ms": round(played.step / 1e3, 4), "seconds": round(seconds, 2)}
    return found


def traced(each: Measured, end: Floats) -> dict[str, Any]:
    """What is published of a traced step whose tasks ended then."""
    operators, step = simulated_operators(play(each.plan))
    whole = float(end.max())
    return {
        "position": TRACED,
        "ms": round(step / 1e3, 4),
        "measured_ms": round(whole / 1e3, 4),
        "error": round(step / whole - 1, 4),
        "operators": {
            name: {
                "us": round(operators[name], 1),
                "measured_us": round(wanted, 1),
                "error": round(operators[name] / wanted - 1, 3) if wanted else None,
                "error_of_step": round((operators[name] - wanted) / whole, 4),
            }
            for name, wanted in each.operators(end).items()
        },
    }


def record(each: Measured) -> dict[str, Any]:
    """What is published of one model."""
    begun = perf_counter()
    played = play(each.at(each.position))
    seconds = perf_counter() - begun
    return {
        "benchmark": "simulate",
        "system": "mpkir-simulator",
        "model": each.model,
        "configuration": each.configuration,
        "policy": each.policy,
        "fitted": each.fitted,
        "gpu": "NVIDIA H100 80GB HBM3",
        "gpus": 1,
        "batch": 1,
        "positions": [each.position, each.position],
        "ms": round(played.step / 1e3, 4),
        "measured_ms": round(each.step / 1e3, 4),
        "error": round(played.step / each.step - 1, 4),
        "error_left_out": None,
        "floor_ms": round(played.floor / 1e3, 4),
        "tasks": each.plan.graph.tasks,
        "seconds": round(seconds, 2),
        "policies": policies(each),
        "traced": None if each.end is None else traced(each, each.end),
        "commit": _commit(),
        "command": f"python {' '.join(sys.argv)}",
        "versions": {"python": platform.python_version(), "mpkir": VERSION},
        "date": date.today().isoformat(),
    }


def _commit() -> str:
    run = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return run.stdout.strip() or "unknown"


def main() -> None:
    """Simulate every model and write the records."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--fit", type=Path)
    given = parser.parse_args()
    records = [record(each) for each in read_measured(given)]
    if given.fit is not None:
        errors = json.loads(given.fit.read_text(encoding="utf-8"))["errors"]
        left_out = {(e["model"], e["configuration"]): e["error_left_out"] for e in errors}
        for each in records:
            each["error_left_out"] = left_out.get((each["model"], each["configuration"]))
    for each in records:
        print(
            f"{each['model']:14} {each['configuration']:32} {each['ms']:.3f} ms, measured "
            f"{each['measured_ms']:.3f} ({each['error']:+.1%}); "
            + ", ".join(f"{k} {v['ms']:.3f}" for k, v in each["policies"].items()),
            flush=True,
        )
    if given.json is not None:
        given.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
