"""Fit the constants of a machine's `timing` to measured steps; predict each case from the others.

    python benchmarks/fit_machine.py [--iterations 4] [--json FILE]
    python benchmarks/fit_machine.py --machine h200 --constants reached

`--constants` fits only these, of a machine with too few measured steps for all of them.

Gauss-Newton on logarithms. Residuals are, of each fitted case of simulated_cases.json, the step's
error; of a traced one also what each operator has on the critical path, as a part of the step. A
weak prior keeps constants that nothing decides where they were. Leaving a case out takes its
residuals away and goes one more step from the optimum of all. Prints the constants for
mpkir/machines/*.json; `hop_us.flag` is one of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
from measured_steps import MACHINE, Measured, operators_on_path, read_measured

from mpkir.analysis.plan import Plan
from mpkir.analysis.simulator import play
from mpkir.machine import Machine, machine_named

Floats = npt.NDArray[np.float64]

FLAG = "hop_us.flag"
FITTED = (
    "dram_latency",
    "l2_share",
    "prepare",
    "task",
    "plain",
    "attention",
    "chunk",
    "merge",
    "join",
    "body",
    FLAG,
)
STEP = 0.08
"""Of the difference quotients."""
PRIOR = 0.01
"""What a factor of e from where a constant was weighs: as much as 1 % of a step."""


def on_machine(plan: Plan, constants: Floats, names: Sequence[str]) -> Plan:
    """The plan on a machine with these constants (logarithms, in the order of their names)."""
    values = dict(zip(names, np.exp(constants).tolist(), strict=True))
    hops = replace(plan.machine.hops, flag=values.pop(FLAG, plan.machine.hops.flag))
    timing = replace(plan.machine.timing, **values)
    return replace(plan, machine=replace(plan.machine, timing=timing, hops=hops))


def constants_of(machine: Machine, names: Sequence[str]) -> Floats:
    """What `on_machine` takes."""
    return np.log([machine.hops.flag if n == FLAG else getattr(machine.timing, n) for n in names])


def residuals_of(each: Measured, constants: Floats, names: Sequence[str]) -> list[float]:
    """Of a case: its step's error, then its operators'."""
    played = play(on_machine(each.plan, constants, names))
    found = [played.step / each.step - 1]
    path = operators_on_path(played)
    found += [(path.get(name, 0.0) - wanted) / each.step for name, wanted in each.path.items()]
    return found


_measured: list[Measured] = []
"""In a process of the pool, which cannot be sent modules."""
_names: list[str] = []
"""Of the constants that are fitted, there too."""


def _residuals(number: int, constants: Floats) -> list[float]:
    return residuals_of(_measured[number], constants, _names)


class Fit:
    """Residuals of all cases as a function of the constants' logarithms."""

    def __init__(self, measured: Sequence[Measured], prior: Floats, pool: ProcessPoolExecutor):
        self.fitted = [number for number, each in enumerate(measured) if each.fitted]
        self.prior, self.pool = prior, pool
        self.owner: list[int] = []
        """The number of the case that each residual is of."""

    def residuals(self, points: Sequence[Floats]) -> list[Floats]:
        """At each of some points."""
        jobs = [
            [self.pool.submit(_residuals, number, point) for number in self.fitted]
            for point in points
        ]
        result: list[Floats] = []
        for point, each in zip(points, jobs, strict=True):
            found = [job.result() for job in each]
            self.owner = [
                number for number, part in zip(self.fitted, found, strict=True) for _ in part
            ]
            flat = [value for part in found for value in part]
            result.append(np.array([*flat, *(PRIOR * (point - self.prior))]))
        return result

    def jacobian(self, constants: Floats, residuals: Floats) -> Floats:
        """By difference quotients."""
        moved = constants + STEP * np.eye(len(constants))
        columns = self.residuals(list(moved))
        return np.stack([(each - residuals) / STEP for each in columns], axis=1)


def step_from(jacobian: Floats, residuals: Floats, damping: float = 1e-4) -> Floats:
    """A damped Gauss-Newton step (Levenberg-Marquardt), no constant by more than a factor of 2."""
    square = jacobian.T @ jacobian
    matrix = square + damping * np.diag(np.diag(square))
    step = np.linalg.solve(matrix, -jacobian.T @ residuals)
    return np.clip(step, -0.7, 0.7).astype(np.float64)


def main() -> None:
    """Fit, then leave each case out in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machine", default=MACHINE)
    parser.add_argument("--constants", default=",".join(FITTED))
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    measured = read_measured([], given.machine)
    _measured.extend(measured)
    _names.extend(given.constants.split(","))
    # Forked, so that the processes have the modules.
    with ProcessPoolExecutor(given.processes, mp_context=get_context("fork")) as pool:
        fit = Fit(measured, constants_of(machine_named(given.machine), _names), pool)
        constants = fit.prior.copy()
        (residuals,) = fit.residuals([constants])
        print(f"squares {residuals @ residuals:.5f}", flush=True)
        jacobian = fit.jacobian(constants, residuals)
        for _ in range(given.iterations):
            for damping in (1e-4, 1e-2, 1.0):
                moved = constants + step_from(jacobian, residuals, damping)
                (found,) = fit.residuals([moved])
                if found @ found < residuals @ residuals:
                    constants, residuals = moved, found
                    break
            print(f"squares {residuals @ residuals:.5f} {_values(constants)}", flush=True)
            jacobian = fit.jacobian(constants, residuals)
        errors = _errors(measured, fit, constants, residuals, jacobian)
    text = json.dumps({"timing": _values(constants), "errors": errors}, indent=1)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n", encoding="utf-8")


def _errors(
    measured: Sequence[Measured],
    fit: Fit,
    constants: Floats,
    residuals: Floats,
    jacobian: Floats,
) -> list[dict[str, object]]:
    """Of every case, with all and with its own measurements left out."""
    errors: list[dict[str, object]] = []
    for number, each in enumerate(measured):
        kept = np.ones(len(residuals), bool)
        kept[: len(fit.owner)] = np.array(fit.owner) != number
        without = constants + step_from(jacobian[kept], residuals[kept])
        (error, *_), (left_out, *_) = fit.pool.map(_residuals, [number] * 2, [constants, without])
        record: dict[str, object] = {
            "model": each.model,
            "configuration": each.configuration,
            "error": round(error, 4),
            "error_left_out": round(left_out, 4) if each.fitted else None,
        }
        errors.append(record)
        print(record, flush=True)
    return errors


def _values(constants: Floats) -> dict[str, float]:
    return {name: float(f"{v:.3g}") for name, v in zip(_names, np.exp(constants), strict=True)}


if __name__ == "__main__":
    main()
