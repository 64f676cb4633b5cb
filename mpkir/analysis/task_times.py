"""How long what a task does takes on a machine, nobody in its way; microseconds.

The simulator adds to it what others cause: events, a shared memory, a ring that is full. Shared by
the simulator and by policies that look ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mpkir.analysis.cost import FamilyCost, Loop
from mpkir.machine import Machine

Floats = npt.NDArray[np.float64]

KILO = 1e3
"""Bytes in a microsecond at 1 GB/s."""


@dataclass(frozen=True, eq=False)
class FamilyTimes:
    """Of the tasks of a family; arrays are [tasks]."""

    streams: bool
    prepare: float
    """A streaming task's start, once for a run of tasks with one input."""
    again: float
    """The same right after a run of other tasks with that input, which the worker then holds."""
    inputs: frozenset[str]
    work: Floats
    """A streaming task's products, all stages there; all of any other task beside DRAM."""
    dram: Floats
    """Bytes that a task that does not stream reads from DRAM itself."""
    code: float
    """Bytes of its body's instructions."""
    body: tuple[object, ...]
    """Families of equal bodies have equal ones."""


def times_of(cost: FamilyCost, machine: Machine) -> FamilyTimes:
    """The times of a family's tasks."""
    timing = machine.timing
    zero = np.zeros(len(cost.stages), np.float64)
    streamed = int(cost.streamed.max(initial=0))
    body = (cost.loop, streamed, cost.stage_bytes, cost.common, int(cost.written.max(initial=0)))
    code = float(timing.code_of_body)
    prepare = again = 0.0
    match cost.loop:
        case Loop.JOIN:
            work, dram, code = zero, zero, 0.0
        case Loop.STREAM:
            again = timing.prepare
            prepare = again + timing.l2_latency + cost.common / (timing.l2_bandwidth * KILO)
            products = cost.streamed / (timing.products * KILO)
            work, dram = timing.task + cost.stages * timing.stage + products, zero
            unrolled = streamed if streamed <= timing.unrolled else cost.stage_bytes
            code += timing.code_of_weights * unrolled
        case Loop.DIRECT:
            reads = (cost.common + cost.own) / (timing.l2_bandwidth * KILO)
            products = cost.dram / (timing.products * KILO)
            work = timing.body + timing.l2_latency + reads + products
            dram = cost.dram.astype(np.float64)
        case Loop.ATTENTION:
            chunk = timing.chunk * (cost.rows > 0) + cost.flops / (timing.attention * KILO)
            work = timing.body + chunk + timing.join * cost.joined
            dram = cost.dram.astype(np.float64)
        case Loop.REDUCE | Loop.MAP:
            touched = np.maximum(cost.own + cost.dram, cost.written)
            work, dram = timing.body + touched / (timing.plain * KILO), zero
    does_stream = cost.loop is Loop.STREAM
    return FamilyTimes(does_stream, prepare, again, cost.inputs, work, dram, code, body)


def total_bytes(costs: Sequence[FamilyCost]) -> int:
    """Bytes from DRAM in a step."""
    return sum(int(cost.bytes.sum()) for cost in costs)
