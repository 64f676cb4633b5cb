"""Simulate models on one and on several GPUs, beside what has been measured of them.

    python benchmarks/simulate_ranks.py --json benchmarks/results/simulate-tp-h200.json [MODEL ..]

simulated_ranks.json lists models, numbers of ranks, and goals, as parts of a step on one GPU. What
is played is the program that the compiler makes for so many ranks, in the middle of the positions
that are measured, compiled as what was measured has been (IN_FLIGHT).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

from models import CAPACITY
from simulate import commit
from xdsl.dialects.builtin import ModuleOp

from mpkir.analysis.plan import plan_of
from mpkir.analysis.simulator import play
from mpkir.frontend import decode_step
from mpkir.machine import machine_named
from mpkir.passes.verify_schedule import VerifySchedulePass
from mpkir.pipeline import lower
from mpkir.tools.ablations import ablation_named
from mpkir.tools.bench import append_records
from mpkir.tools.bench.models import model_source
from mpkir.tools.simulation import exposed
from mpkir.tools.variants import model_without_values
from mpkir.version import VERSION

CASES = Path(__file__).with_name("simulated_ranks.json")
RESULTS = Path(__file__).parent / "results"
MACHINE = "h200"
POSITIONS = (32, 158)
IN_FLIGHT = 3
"""Stages that what ran on H200s asked for at once."""
VARIANT = ablation_named(f"in-flight={IN_FLIGHT}").variant


def scheduled_module(step: ModuleOp, ranks: int) -> ModuleOp:
    """The step's program for so many ranks, not proven safe again."""
    module = step.clone()
    unproven = replace(VARIANT, tuned=False, without=(VerifySchedulePass.name,))
    lower(module, VARIANT.machine_of(machine_named(MACHINE)), variant=unproven, tp=ranks)
    return module


def record(case: dict[str, Any], step: ModuleOp, ranks: int) -> dict[str, Any]:
    """What is published of a model on so many ranks."""
    machine = VARIANT.machine_of(machine_named(MACHINE))
    plan = plan_of(scheduled_module(step, ranks), machine, sum(POSITIONS) // 2)
    begun = perf_counter()
    played = play(plan)
    seconds = perf_counter() - begun
    measured = measured_of(case, ranks)
    ms = played.step / 1e3
    return {
        "benchmark": "simulate-tp",
        "system": "mpkir-simulator",
        "model": case["model"],
        "configuration": VARIANT.name,
        "gpu": "NVIDIA H200 (simulated)",
        "gpus": ranks,
        "tp": ranks,
        "batch": 1,
        "positions": list(POSITIONS),
        "capacity": CAPACITY,
        "ms": round(ms, 4),
        "floor_ms": round(played.floor / 1e3, 4),
        "share_of_floor": round(played.floor / played.step, 4),
        "of_one": None,
        "goal_of_one": case.get("goals", {}).get(str(ranks)),
        "exposed_us": round(exposed(played), 1),
        "measured_ms": measured and measured["ms"],
        "error": measured and round(ms / measured["ms"] - 1, 4),
        "tasks": plan.graph.tasks,
        "seconds": round(seconds, 2),
        "commit": commit(),
        "command": f"python {' '.join(sys.argv)}",
        "versions": {"python": platform.python_version(), "mpkir": VERSION},
        "date": date.today().isoformat(),
    }


def measured_of(case: dict[str, Any], ranks: int) -> dict[str, Any] | None:
    """The record of the same on GPUs, if there is one."""
    if "results" not in case:
        return None
    records = json.loads((RESULTS / case["results"]).read_text(encoding="utf-8"))
    found = (
        each
        for each in records
        if each["system"] == "mpkir-megakernel"
        and each["model"] == case["model"]
        and each["gpus"] == ranks
        and "variant" not in each
    )
    return next(found, None)


def records_of(case: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Of all numbers of ranks of a case, in their order; one first where it is among them."""
    step = decode_step(model_without_values(model_source(case["model"])), CAPACITY)
    one: float | None = None
    for ranks in case["ranks"]:
        found = record(case, step, ranks)
        one = found["ms"] if ranks == 1 else one
        found["of_one"] = one and round(found["ms"] / one, 4)
        yield found


def write(path: Path, model: str, records: list[dict[str, Any]]) -> None:
    """Put a model's records in place of those that the file has of it."""
    held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    path.unlink(missing_ok=True)
    append_records(path, [each for each in held if each["model"] != model] + records)


def main() -> None:
    """Simulate every case and write its records, in place of those of before."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    for case in json.loads(CASES.read_text(encoding="utf-8")):
        if given.models and case["model"] not in given.models:
            continue
        records: list[dict[str, Any]] = []
        for each in records_of(case):
            records.append(each)
            of_one = "" if each["of_one"] is None else f", {each['of_one']:.3f} of one"
            error = "" if each["error"] is None else f", {each['error']:+.1%} of measured"
            print(
                f"{each['model']:14} {each['tp']:2} ranks {each['ms']:7.3f} ms, floor "
                f"{each['floor_ms']:.3f}{of_one}, exposed {each['exposed_us']} us{error}",
                flush=True,
            )
        if given.json is not None:
            write(given.json, case["model"], records)


if __name__ == "__main__":
    main()
