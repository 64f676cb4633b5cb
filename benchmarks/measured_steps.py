"""Measured steps and the schedules that ran, for the simulator to be held against.

A folder of IR has MODEL.mlir, the scheduled module of each artifact (`mpk compile --dump-dir`, the
last file); a folder of traces MODEL.npz, as benchmarks/trace_decode.py writes them.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from models import MEASURED

from mpkir.analysis.cost import cost_of
from mpkir.analysis.families import Ints
from mpkir.analysis.operators import advances, by_operator
from mpkir.analysis.plan import Plan, plan_of
from mpkir.analysis.simulator import Simulation
from mpkir.analysis.task_times import Floats
from mpkir.machine import Machine, machine_named
from mpkir.runtime.artifact import load_artifact
from mpkir.tools.simulation import plan_of_table, read_trace
from mpkir.tools.sources import module_of

RESULTS = Path(__file__).parent / "results" / "decode-h100.json"
TRACED = 158
"""Position of a traced step: the last of a launch from 32."""


@dataclass(frozen=True)
class Measured:
    """A model's step as it ran."""

    model: str
    plan: Plan
    """At the traced position."""
    rows: Ints
    end: Floats
    """Of each task in the traced step, microseconds from its first task's event."""
    step: float
    """Microseconds, the median over many positions, without tracing."""
    position: int
    """In the middle of these."""

    @property
    def traced(self) -> float:
        """Microseconds of the traced step."""
        return float(self.end.max())

    @property
    def operators(self) -> dict[str, float]:
        """Microseconds that each operator added to the traced step."""
        return by_operator(self.plan.graph.families, advances(self.end, self.plan.graph.offsets))

    def at(self, position: int) -> Plan:
        """The plan at another position."""
        costs = tuple(cost_of(family, position) for family in self.plan.graph.families)
        return replace(self.plan, costs=costs)


def simulated_operators(played: Simulation) -> tuple[dict[str, float], float]:
    """What `Measured.operators` and `.traced` are, of a simulation."""
    end = played.end - float(played.ready.min(initial=0.0))
    graph = played.plan.graph
    return by_operator(graph.families, advances(end, graph.offsets)), float(end.max())


def read_measured(
    artifacts: Path, ir: Path, traces: Path, machine: Machine, models: list[str]
) -> list[Measured]:
    """The measured steps of these models."""
    records = json.loads(RESULTS.read_text(encoding="utf-8"))
    found: list[Measured] = []
    for model in models:
        record = next(
            r for r in records if r["model"] == model and r["system"] == "mpkir-megakernel"
        )
        module = module_of(str(ir / f"{model}.mlir"), None).module
        plan, rows = plan_of_table(
            plan_of(module, machine, TRACED), load_artifact(artifacts / model).table
        )
        end = np.zeros(len(rows))
        end[rows] = read_trace(traces / f"{model}.npz")
        first, last = record["positions"]
        found.append(Measured(model, plan, rows, end, record["ms"] * 1e3, (first + last) // 2))
    return found


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that say where measurements are."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("models", nargs="*", default=list(MEASURED))
    parser.add_argument("--artifacts", type=Path, default=Path("build/h100"))
    parser.add_argument("--ir", type=Path, required=True)
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--machine", default="h100")
    parser.add_argument("--json", type=Path)
    return parser


def measured_from(given: argparse.Namespace) -> list[Measured]:
    """What `arguments` name."""
    machine = machine_named(given.machine)
    return read_measured(given.artifacts, given.ir, given.traces, machine, given.models)
