"""What a played step is reported as: who ran each task when, and what it waited for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from mpkir.analysis.families import Ints
from mpkir.analysis.plan import Plan
from mpkir.analysis.task_times import KILO, Floats, total_bytes


class Cause(IntEnum):
    """What a task's start waited for last."""

    WORKER = 0
    """The task before it on its worker."""
    EVENT = 1


@dataclass(frozen=True, eq=False)
class Simulation:
    """One step as played. Arrays are [tasks] in linear order; microseconds from the step's begin,
    which is the end of the step before.
    """

    plan: Plan
    worker: Ints
    """Who ran each task."""
    ready: Floats
    """When the task's event was seen."""
    start: Floats
    """When the worker began it: it had nothing else to do, and the event was seen."""
    end: Floats
    """When its results and its signal were written."""
    starved: Floats
    """Of the time between, how long it waited for weights to land."""
    busy: Floats
    """Of the time between, how long the worker's compute warps worked."""
    cause: Ints
    before: Ints
    """The task that `cause` names; -1 for none in this step."""
    step: float
    """Time of the step."""

    @property
    def floor(self) -> float:
        """Time of the step's bytes at the machine's bandwidth."""
        bandwidth = self.plan.machine.memory_bandwidth * KILO
        return total_bytes(self.plan.costs) / bandwidth
