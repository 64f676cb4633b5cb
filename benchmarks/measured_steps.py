"""Measured steps and the schedules that ran, for the simulator to be held against.

simulated_cases.json lists them; their milliseconds come from the results of decoding. A case that
was `scheduled` before takes its schedule from MODEL.mlir in a folder of IR (`mpk compile
--dump-dir`, the last file), any other is compiled anew. A case with a `trace` plays the table of
ARTIFACTS/trace/MODEL beside TRACES/trace/MODEL.npz (benchmarks/trace_decode.py).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from models import CAPACITY, configurations
from xdsl.dialects.builtin import ModuleOp

from mpkir.analysis.cost import cost_of
from mpkir.analysis.operators import advances, by_operator
from mpkir.analysis.plan import Plan, plan_of
from mpkir.analysis.simulator import Simulation
from mpkir.analysis.task_times import Floats
from mpkir.machine import Machine, machine_named
from mpkir.pipeline import lower
from mpkir.runtime.artifact import TABLE, read_manifest
from mpkir.runtime.table import Table
from mpkir.tools.simulation import DEFAULT_POLICY, plan_of_table, read_trace
from mpkir.tools.sources import module_of

CASES = Path(__file__).with_name("simulated_cases.json")
RESULTS = Path(__file__).parent / "results"
TRACED = 158
"""Position of a traced step: the last of a launch from 32."""


@dataclass(frozen=True)
class Measured:
    """A model's step as it ran."""

    model: str
    configuration: str
    policy: str
    fitted: bool
    """Constants are fitted to it."""
    module: ModuleOp
    plan: Plan
    """At the traced position, on the machine as the measured code used it."""
    end: Floats | None
    """Of each task in the traced step, microseconds from its first task's event."""
    step: float
    """Microseconds, the median over many positions, without tracing."""
    position: int
    """In the middle of these."""

    def operators(self, end: Floats) -> dict[str, float]:
        """Microseconds that each operator added to a step whose tasks ended then."""
        return by_operator(self.plan.graph.families, advances(end, self.plan.graph.offsets))

    def at(self, position: int) -> Plan:
        """The plan at another position."""
        costs = tuple(cost_of(family, position) for family in self.plan.graph.families)
        return replace(self.plan, costs=costs)


def simulated_operators(played: Simulation) -> tuple[dict[str, float], float]:
    """What `Measured.operators` and the traced step are, of a simulation."""
    end = played.end - float(played.ready.min(initial=0.0))
    graph = played.plan.graph
    return by_operator(graph.families, advances(end, graph.offsets)), float(end.max())


def machine_of(case: dict[str, Any], machine: Machine) -> Machine:
    """The machine with what was different of it when the case was measured."""
    return replace(
        machine,
        tiles=replace(machine.tiles, attention_chunk=case["attention_chunk"]),
        timing=replace(machine.timing, unrolled=case["unrolled"]),
    )


def scheduled_module(case: dict[str, Any], machine: Machine, ir: Path) -> ModuleOp:
    """The case's schedule, read or made."""
    if case.get("scheduled"):
        return module_of(str(ir / f"{case['model']}.mlir"), None).module
    with TemporaryDirectory() as folder:
        configurations()[case["model"]].save_pretrained(folder)
        module = module_of(str(Path(folder) / "config.json"), CAPACITY).module
    lower(module, machine, policy=case.get("policy", DEFAULT_POLICY))
    return module


def record_of(case: dict[str, Any]) -> dict[str, Any]:
    """What was measured of a case."""
    # The machine model is fitted to the kernels of that time.
    is_variant = "variant" in case
    name = "decode-variants-h100.json" if is_variant else "decode-h100-earlier.json"
    return next(
        record
        for record in json.loads((RESULTS / name).read_text(encoding="utf-8"))
        if record["system"] == "mpkir-megakernel"
        and record["model"] == case["model"]
        and record.get("variant") == case.get("variant")
    )


def read_measured(given: argparse.Namespace) -> list[Measured]:
    """The measured steps that options name."""
    found: list[Measured] = []
    for case in json.loads(CASES.read_text(encoding="utf-8")):
        model, configuration = case["model"], case["configuration"]
        if given.models and model not in given.models:
            continue
        machine = machine_of(case, machine_named(given.machine))
        module = scheduled_module(case, machine, given.ir)
        plan, end = plan_of(module, machine, TRACED), None
        if "trace" in case:
            artifact = given.artifacts / case["trace"] / model
            table = Table.load(artifact / TABLE, read_manifest(artifact).names)
            plan, rows = plan_of_table(plan, table)
            end = np.zeros(len(rows))
            end[rows] = read_trace(given.traces / case["trace"] / f"{model}.npz")
        record = record_of(case)
        first, last = record["positions"]
        measured = Measured(
            model,
            configuration,
            case.get("policy", DEFAULT_POLICY),
            end is not None or case.get("fitted", False),
            module,
            plan,
            end,
            record["ms"] * 1e3,
            (first + last) // 2,
        )
        found.append(measured)
    return found


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that say where measurements are."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--ir", type=Path, required=True)
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--machine", default="h100")
    parser.add_argument("--json", type=Path)
    return parser
