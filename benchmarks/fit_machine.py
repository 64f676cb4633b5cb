"""Fit the constants of a machine's `timing` to traced steps; predict each model from the others.

    python benchmarks/fit_machine.py --ir DIR --traces DIR [--iterations 4] [--json FILE]

Gauss-Newton on logarithms. Residuals are what each operator adds to a step, measured against
simulated, as a part of the step, and the step; a weak prior keeps constants that nothing decides
where they were. Leaving a model out takes its residuals away and goes one more step from the
optimum of all. Prints the constants for mpkir/machines/*.json.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from measured_steps import Measured, arguments, measured_from, simulated_operators

from mpkir.analysis.simulator import play
from mpkir.machine import Machine

Floats = npt.NDArray[np.float64]

FITTED = (
    "dram_latency",
    "l2_latency",
    "l2_bandwidth",
    "prepare",
    "products",
    "stage",
    "task",
    "plain",
    "attention",
    "body",
    "release",
    "code_bandwidth",
)
STEP = 0.08
"""Of the difference quotients."""
PRIOR = 0.03
"""What a factor of e from where a constant was weighs: as much as 3 % of a step."""
WEIGHT = 2.0
"""Of a residual that is a part of the step."""


class Fit:
    """Residuals of all models as a function of the constants' logarithms."""

    def __init__(self, measured: list[Measured], machine: Machine) -> None:
        self.measured, self.machine = measured, machine
        self.prior = np.log([getattr(machine.timing, name) for name in FITTED])
        self.rows: dict[str, slice] = {}
        """Where each model's residuals stand."""

    def at(self, constants: Floats) -> Machine:
        """The machine with these constants."""
        values = dict(zip(FITTED, np.exp(constants).tolist(), strict=True))
        return replace(self.machine, timing=replace(self.machine.timing, **values))

    def residuals(self, constants: Floats) -> Floats:
        """Of every operator of every model, and of every step."""
        machine = self.at(constants)
        found: list[float] = []
        for each in self.measured:
            begin = len(found)
            operators, step = simulated_operators(play(replace(each.plan, machine=machine), 1))
            wanted = each.operators
            found += [WEIGHT * (operators[k] - wanted[k]) / each.traced for k in wanted]
            found.append(WEIGHT * (step / each.traced - 1))
            self.rows[each.model] = slice(begin, len(found))
        return np.array([*found, *(PRIOR * (constants - self.prior))])

    def jacobian(self, constants: Floats, residuals: Floats) -> Floats:
        """By difference quotients."""
        columns: list[Floats] = []
        for i in range(len(constants)):
            moved = constants.copy()
            moved[i] += STEP
            columns.append((self.residuals(moved) - residuals) / STEP)
        return np.stack(columns, axis=1)

    def error(self, each: Measured, constants: Floats) -> float:
        """Of the step at the middle of the measured positions, as part of it."""
        plan = replace(each.at(each.position), machine=self.at(constants))
        return play(plan).step / each.step - 1


def step_from(jacobian: Floats, residuals: Floats, damping: float = 1e-4) -> Floats:
    """A damped Gauss-Newton step (Levenberg-Marquardt), no constant by more than a factor of 2."""
    square = jacobian.T @ jacobian
    matrix = square + damping * np.diag(np.diag(square))
    return np.clip(np.linalg.solve(matrix, -jacobian.T @ residuals), -0.7, 0.7)


def main() -> None:
    """Fit, then leave each model out in turn."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=4)
    given = parser.parse_args()
    measured = measured_from(given)
    fit = Fit(measured, measured[0].plan.machine)
    constants = fit.prior.copy()
    residuals = fit.residuals(constants)
    jacobian = fit.jacobian(constants, residuals)
    for _ in range(given.iterations):
        for damping in (1e-4, 1e-2, 1.0):
            moved = constants + step_from(jacobian, residuals, damping)
            found = fit.residuals(moved)
            if found @ found < residuals @ residuals:
                constants, residuals = moved, found
                break
        print(f"squares {residuals @ residuals:.5f}", flush=True)
        jacobian = fit.jacobian(constants, residuals)

    def values(of: Floats) -> dict[str, float]:
        return {name: float(f"{v:.3g}") for name, v in zip(FITTED, np.exp(of), strict=True)}

    result: dict[str, object] = {"timing": values(constants), "models": {}}
    for each in measured:
        kept = np.ones(len(residuals), bool)
        kept[fit.rows[each.model]] = False
        without = constants + step_from(jacobian[kept], residuals[kept])
        record = {
            "error": round(fit.error(each, constants), 4),
            "error_left_out": round(fit.error(each, without), 4),
            "timing_left_out": values(without),
        }
        result["models"][each.model] = record  # pyright: ignore[reportIndexIssue]
        print(each.model, record, flush=True)
    text = json.dumps(result, indent=1)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
