"""What the traced steps spent their time on, by operator and by cause, beside the plan."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpkir.tools.trace.path import Link
from mpkir.tools.trace.timeline import CAUSES, DONE, READY, TURNED, Ints, Timeline

MICRO = 1e3


def operator_name(family: str) -> str:
    """What families of equal operators of different layers are called: `layers.*.mlp`."""
    return re.sub(r"\d+", "*", family)


@dataclass(frozen=True, eq=False)
class Operators:
    """The operators of a program, in order of appearance."""

    names: tuple[str, ...]
    of_family: Ints
    """[families]"""


def operators_of(families: Sequence[str]) -> Operators:
    """Group families by name."""
    numbers: dict[str, int] = {}
    of_family = [numbers.setdefault(operator_name(name), len(numbers)) for name in families]
    return Operators(tuple(numbers), np.array(of_family, np.int64))


def summary(timeline: Timeline, path: Sequence[Link]) -> dict[str, Any]:
    """Microseconds, shares and bytes of the traced steps."""
    recording = timeline.recording
    spent = timeline.spent()
    end = timeline.end
    listed = timeline.worker < timeline.program.table.worker_count
    whole = end * timeline.program.table.worker_count
    shares = {cause: float(each[listed].sum() / whole) for cause, each in spent.items()}
    shares["idle"] = 1.0 - sum(shares.values())
    stages = recording.stages
    inside = (stages[:, 7] > 0) & (stages[:, 7] <= end)
    size = int(stages[inside, 3].sum())
    slots = np.maximum(0, stages[:, 5] - stages[:, 4])
    pacing = np.maximum(0, stages[:, 6] - stages[:, 5])
    return {
        "steps": recording.steps,
        "position": recording.position,
        "device": recording.device,
        "workers": timeline.program.table.worker_count,
        "tasks": timeline.program.table.task_count,
        "traced_us": round(end / MICRO / recording.steps, 2),
        "launch_step_us": round(recording.step_ms * 1e3, 2),
        "untraced_step_us": round(recording.untraced_ms * 1e3, 2),
        "workers_spend": {cause: round(share, 4) for cause, share in shares.items()},
        "weights": {
            "bytes": size,
            "gb_s": round(size / end, 1),
            "stages": len(stages),
            "loaders_wait_for_slots": round(float(slots.sum() / whole), 4),
            "loaders_hold_back": round(float(pacing.sum() / whole), 4),
        },
        "operators": _by_operator(timeline, spent),
        "critical_path": path_by_operator(timeline, path),
    }


def _by_operator(timeline: Timeline, spent: dict[str, Ints]) -> dict[str, dict[str, Any]]:
    """By operator: tasks in a step, the mean over steps of what workers spend, and the median time
    from the first start of a family's tasks to the last result."""
    operators = operators_of(timeline.program.table.names.families)
    steps, times = timeline.recording.steps, timeline.times
    family = timeline.family
    of_task = operators.of_family[family]
    step = np.arange(len(family)) // timeline.tasks_per_step
    families = len(operators.of_family)
    begin = np.full(steps * families, np.iinfo(np.int64).max)
    end = np.zeros(steps * families, np.int64)
    np.minimum.at(begin, step * families + family, np.maximum(times[:, READY], times[:, TURNED]))
    np.maximum.at(end, step * families + family, times[:, DONE])
    lasting = (end - begin) / MICRO
    result: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(operators.names):
        chosen = of_task == number
        stages = np.tile(operators.of_family == number, steps)
        result[name] = {
            "tasks": int(chosen.sum()) // steps,
            "families": int(stages.sum()) // steps,
            "stage_us": round(float(np.median(lasting[stages])), 2),
            "workers_us": {
                cause: round(float(each[chosen].sum()) / MICRO / steps, 1)
                for cause, each in spent.items()
            },
        }
    return result


def path_by_operator(timeline: Timeline, path: Sequence[Link]) -> dict[str, dict[str, Any]]:
    """The path's links, summed over equal operators; microseconds of all steps."""
    operators = operators_of(timeline.program.table.names.families)
    family = timeline.family
    result: dict[str, dict[str, Any]] = {}
    for link in path:
        name = operators.names[int(operators.of_family[family[link.task]])]
        each = result.setdefault(
            name, {"tasks": 0, "us": 0.0, "handoff_us": 0.0, "weights_us": 0.0}
        )
        each["tasks"] += 1
        each["us"] += (link.end - link.begin) / MICRO
        each["handoff_us"] += link.handoff / MICRO
        each["weights_us"] += link.weights / MICRO
    return {
        name: {key: round(value, 2) for key, value in each.items()} for name, each in result.items()
    }


def shares_over_time(timeline: Timeline, bins: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[causes, bins] the share of all workers in each state during each part of the time."""
    edges = np.linspace(0, timeline.end, bins + 1)
    listed = timeline.worker < timeline.program.table.worker_count
    times = timeline.times[listed]
    count = timeline.program.table.worker_count
    result = np.zeros((len(CAUSES), bins))
    for cause in range(len(CAUSES)):
        result[cause] = np.diff(_integral(times[:, cause], times[:, cause + 1], edges))
    return result / (count * np.diff(edges))


def bytes_over_time(
    timeline: Timeline, bins: int
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.float64]]]:
    """[bins] the mean of bytes in flight, and gigabytes that landed in a second."""
    edges = np.linspace(0, timeline.end, bins + 1)
    stages = timeline.recording.stages
    size, issued, landed = (stages[:, k].astype(np.float64) for k in (3, 6, 7))
    width = np.diff(edges)
    in_flight = np.diff(_integral(issued, landed, edges, size)) / width
    order = np.argsort(landed, kind="stable")
    total = np.append(0.0, np.cumsum(size[order]))
    arrived = total[np.searchsorted(landed[order], edges, side="right")]
    return in_flight, np.diff(arrived) / width


def _integral(
    begin: np.ndarray[Any, Any],
    end: np.ndarray[Any, Any],
    edges: np.ndarray[Any, np.dtype[np.float64]],
    weight: np.ndarray[Any, Any] | None = None,
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """How much of all intervals lies before each edge: the integral of their number (or weight)."""
    weight = np.ones(len(begin)) if weight is None else weight

    def before(times: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
        order = np.argsort(times, kind="stable")
        sorted_times = times[order].astype(np.float64)
        weights = weight[order]
        count = np.append(0.0, np.cumsum(weights))
        moment = np.append(0.0, np.cumsum(weights * sorted_times))
        at = np.searchsorted(sorted_times, edges, side="right")
        return count[at] * edges - moment[at]

    return before(begin) - before(end)
