"""Measured steps, for the simulator to be held against.

simulated_cases.json lists them: a model, maybe a machine that is not MACHINE, a number of ranks
(`tp`), an ablation of `mpk bench`, and which record of benchmarks/results says how long a step
took. Each is compiled anew, so the results must be of kernels that today's compiler still makes;
`in_flight` says how many stages what was measured asked for at once, where the compiler would take
others now. A case with a `trace` has a record of `mpk trace`, too, which says by operator what the
critical path was made of.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models import CAPACITY
from xdsl.dialects.builtin import ModuleOp

from mpkir.analysis.cost import cost_of
from mpkir.analysis.critical_path import path_by_operator
from mpkir.analysis.plan import Plan, plan_of
from mpkir.analysis.simulator import Simulation
from mpkir.frontend import decode_step
from mpkir.machine import Machine, machine_named
from mpkir.passes.verify_schedule import VerifySchedulePass
from mpkir.pipeline import lower
from mpkir.tools.ablations import DEFAULT, ablation_named
from mpkir.tools.bench.models import model_source
from mpkir.tools.variants import model_without_values
from mpkir.variant import Variant

CASES = Path(__file__).with_name("simulated_cases.json")
RESULTS = Path(__file__).parent / "results"
MACHINE = "h100"
FIRST = 32
"""Position of a measured launch's first step, where a case does not say."""


@dataclass(frozen=True)
class Measured:
    """A model's step as it ran."""

    case: dict[str, Any]
    module: ModuleOp
    plan: Plan
    """In the middle of the measured positions."""
    step: float
    """Microseconds, the median over these."""
    path: dict[str, float]
    """Microseconds that each operator had on the critical path of a traced step, as a part of an
    untraced one; none if it was not traced."""

    @property
    def model(self) -> str:
        return self.case["model"]

    @property
    def machine(self) -> str:
        """Its name."""
        return self.case.get("machine", MACHINE)

    @property
    def fitted(self) -> bool:
        """Whether constants are fitted to it."""
        return self.case["fitted"]

    @property
    def configuration(self) -> str:
        """What is not as by default."""
        said = [f"{self.case['tp']} ranks"] if self.case.get("tp", 1) > 1 else []
        said += [self.case.get("variant", "")]
        said += [f"batch {self.case['batch']}"] if "batch" in self.case else []
        said += [f"position {self.case['first']}"] if "first" in self.case else []
        return ", ".join(filter(None, said))


def operators_on_path(played: Simulation) -> dict[str, float]:
    """What `Measured.path` is, of a simulation."""
    return {name: each.time for name, each in path_by_operator(played).items()}


def record_of(case: dict[str, Any]) -> dict[str, Any]:
    """What was measured of a case, last."""
    first, ranks = case.get("first", FIRST), case.get("tp", 1)
    return next(
        record
        for record in reversed(_records(case["results"]))
        if record["benchmark"] == ("decode" if ranks == 1 else "decode-tp")
        and record["system"] == "mpkir-megakernel"
        and record["model"] == case["model"]
        and record.get("variant", "") == case.get("variant", "")
        and record["positions"][0] == first
        and record["gpus"] == ranks
        and record["batch"] == case.get("batch", 1)
        and record["capacity"] == case.get("capacity", CAPACITY)
    )


def _records(name: str) -> list[dict[str, Any]]:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def _traced_path(case: dict[str, Any]) -> dict[str, float]:
    if "trace" not in case:
        return {}
    record = next(
        each
        for each in _records(case["trace"])
        if each["model"] == case["model"] and "critical_path" in each
    )
    untraced = record["untraced_step_us"] / sum(e["us"] for e in record["critical_path"].values())
    return {name: each["us"] * untraced for name, each in record["critical_path"].items()}


def scheduled_module(case: dict[str, Any]) -> ModuleOp:
    """The case's program, not proven safe again."""
    variant = _variant(case)
    unproven = replace(variant, tuned=False, without=(*variant.without, VerifySchedulePass.name))
    model = model_without_values(model_source(case["model"]))
    module = decode_step(model, case.get("capacity", CAPACITY), batch=case.get("batch", 1))
    lower(module, _machine(case), variant=unproven, tp=case.get("tp", 1))
    return module


def _variant(case: dict[str, Any]) -> Variant:
    name = case.get("variant", "")
    variant = (ablation_named(name) if name else DEFAULT).variant
    if "in_flight" in case:
        variant = variant.over(Variant(machine=(("ring.in_flight", case["in_flight"]),)))
    return variant


def _machine(case: dict[str, Any]) -> Machine:
    return _variant(case).machine_of(machine_named(case.get("machine", MACHINE)))


def measured_of(case: dict[str, Any]) -> Measured:
    """The case's program, and what was measured of it."""
    record = record_of(case)
    position = sum(record["positions"]) // 2
    module = scheduled_module(case)
    plan = plan_of(module, _machine(case), position)
    return Measured(case, module, plan, record["ms"] * 1e3, _traced_path(case))


def read_measured(models: list[str], machine: str = MACHINE) -> list[Measured]:
    """A machine's cases of these models, or all. A program of several cases is compiled once."""
    found: list[Measured] = []
    for case in json.loads(CASES.read_text(encoding="utf-8")):
        if case.get("machine", MACHINE) != machine or (models and case["model"] not in models):
            continue
        same = [each for each in found if _program(each.case) == _program(case)]
        if same:
            record = record_of(case)
            graph, position = same[0].plan.graph, sum(record["positions"]) // 2
            costs = tuple(cost_of(family, position) for family in graph.families)
            plan = replace(same[0].plan, costs=costs)
            step, path = record["ms"] * 1e3, _traced_path(case)
            found.append(Measured(case, same[0].module, plan, step, path))
        else:
            found.append(measured_of(case))
    return found


def _program(case: dict[str, Any]) -> tuple[object, ...]:
    return tuple(
        case.get(key) for key in ("model", "variant", "in_flight", "capacity", "batch", "tp")
    )
