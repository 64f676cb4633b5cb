"""Hold the simulator against measured steps: their times, and every operator of a traced one.

    python benchmarks/simulate.py --ir DIR --traces DIR --json benchmarks/results/simulate-h100.json

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

from measured_steps import TRACED, Measured, arguments, measured_from, simulated_operators

from mpkir.analysis.plan import plan_of
from mpkir.analysis.simulator import play
from mpkir.passes.schedule_tasks import ScheduleTasksPass
from mpkir.pipeline import context
from mpkir.tools.sources import module_of
from mpkir.version import VERSION

POLICIES = ("round-robin", "list")


def policies(each: Measured, ir: Path) -> dict[str, dict[str, float]]:
    """Simulated steps of the same families under every policy, and how long scheduling took."""
    module = module_of(str(ir / f"{each.model}.mlir"), None).module
    machine = each.plan.machine
    found: dict[str, dict[str, float]] = {}
    for policy in POLICIES:
        begun = perf_counter()
        schedule = ScheduleTasksPass(each.plan.workers, policy, machine.name)
        schedule.apply(context(), module)
        seconds = perf_counter() - begun
        played = play(plan_of(module, machine, each.position))
        found[policy] = {"ms": round(played.step / 1e3, 4), "seconds": round(seconds, 2)}
    return found


def record(each: Measured, ir: Path, fit: dict[str, Any]) -> dict[str, Any]:
    """What is published of one model."""
    begun = perf_counter()
    played = play(each.at(each.position))
    seconds = perf_counter() - begun
    operators, step = simulated_operators(play(each.plan))
    traced = each.traced
    left_out = fit.get("models", {}).get(each.model, {})
    return {
        "benchmark": "simulate",
        "system": "mpkir-simulator",
        "model": each.model,
        "gpu": "NVIDIA H100 80GB HBM3",
        "gpus": 1,
        "batch": 1,
        "positions": [each.position, each.position],
        "ms": round(played.step / 1e3, 4),
        "measured_ms": round(each.step / 1e3, 4),
        "error": round(played.step / each.step - 1, 4),
        "error_left_out": left_out.get("error_left_out"),
        "floor_ms": round(played.floor / 1e3, 4),
        "tasks": each.plan.graph.tasks,
        "seconds": round(seconds, 2),
        "policies": policies(each, ir),
        "traced": {
            "position": TRACED,
            "ms": round(step / 1e3, 4),
            "measured_ms": round(traced / 1e3, 4),
            "error": round(step / traced - 1, 4),
            "operators": {
                name: {
                    "us": round(operators[name], 1),
                    "measured_us": round(wanted, 1),
                    "error": round(operators[name] / wanted - 1, 3) if wanted else None,
                    "error_of_step": round((operators[name] - wanted) / traced, 4),
                }
                for name, wanted in each.operators.items()
            },
        },
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
    fit = {} if given.fit is None else json.loads(given.fit.read_text(encoding="utf-8"))
    records = [record(each, given.ir, fit) for each in measured_from(given)]
    for each in records:
        print(
            f"{each['model']:14} {each['ms']:.3f} ms, measured {each['measured_ms']:.3f} "
            f"({each['error']:+.1%}); traced step {each['traced']['error']:+.1%}; "
            + ", ".join(f"{k} {v['ms']:.3f}" for k, v in each["policies"].items()),
            flush=True,
        )
    if given.json is not None:
        given.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
