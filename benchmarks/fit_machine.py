"""Fit the constants of a machine's `timing` to traced steps; predict each model from the others.

    python benchmarks/fit_machine.py --artifacts DIR --ir DIR --traces DIR [--iterations 4]

Gauss-Newton on logarithms. Residuals are, of traced steps, what each operator adds, measured
against simulated, as a part of the step, and the step; of other fitted cases the step at the middle
of the measured positions. A weak prior keeps constants that nothing decides where they were.
Leaving a model out takes its residuals away and goes one more step from the optimum of all. Prints
the constants for mpkir/machines/*.json.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from measured_steps import Measured, arguments, read_measured, simulated_operators

from mpkir.analysis.plan import Plan
from mpkir.analysis.simulator import play
from mpkir.machine import Timing, machine_named

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
    "chunk",
    "join",
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

    def __init__(self, measured: list[Measured], timing: Timing) -> None:
        self.measured = [each for each in measured if each.fitted]
        self.plans = [
            each.plan if each.end is not None else each.at(each.position) for each in self.measured
        ]
        self.prior = np.log([getattr(timing, name) for name in FITTED])
        self.models: list[str] = []
        """Whose each residual is."""

    @staticmethod
    def at(plan: Plan, constants: Floats) -> Plan:
        """The plan on a machine with these constants."""
        values = dict(zip(FITTED, np.exp(constants).tolist(), strict=True))
        timing = replace(plan.machine.timing, **values)
        return replace(plan, machine=replace(plan.machine, timing=timing))

    def residuals(self, constants: Floats) -> Floats:
        """Of every operator of every model, and of every step."""
        found: list[float] = []
        self.models = []
        for each, plan in zip(self.measured, self.plans, strict=True):
            moved = self.at(plan, constants)
            if each.end is None:
                found.append(WEIGHT * (play(moved).step / each.step - 1))
            else:
                operators, step = simulated_operators(play(moved, 1))
                wanted, traced = each.operators(each.end), float(each.end.max())
                found += [WEIGHT * (operators[k] - wanted[k]) / traced for k in wanted]
                found.append(WEIGHT * (step / traced - 1))
            self.models += [each.model] * (len(found) - len(self.models))
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
        return play(self.at(each.at(each.position), constants)).step / each.step - 1


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
    measured = read_measured(given)
    fit = Fit(measured, machine_named(given.machine).timing)
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

    errors: list[dict[str, object]] = []
    for each in measured:
        kept = np.ones(len(residuals), bool)
        kept[: len(fit.models)] = np.array(fit.models) != each.model
        without = constants + step_from(jacobian[kept], residuals[kept])
        record = {
            "model": each.model,
            "configuration": each.configuration,
            "error": round(fit.error(each, constants), 4),
            "error_left_out": round(fit.error(each, without), 4),
            "timing_left_out": values(without),
        }
        errors.append(record)
        print(record, flush=True)
    text = json.dumps({"timing": values(constants), "errors": errors}, indent=1)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
