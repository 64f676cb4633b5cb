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
from mpkir.machine import Machine, Timing

LANES = 128
"""That share a row of an input whose elements are polled one after the other."""

INPUT_AT_ONCE = 32768
"""Bytes of a streaming task's input that a worker asks for at once; of more than MANY_TOKENS rows
twice as many."""

MANY_TOKENS = 8

ROWS_AHEAD = 65536
"""Bytes of its rows of a cache that attention asks for before its queries are there."""

Floats = npt.NDArray[np.float64]

KILO = 1e3
"""Bytes in a microsecond at 1 GB/s."""


@dataclass(frozen=True, eq=False)
class FamilyTimes:
    """Of the tasks of a family; arrays are [tasks]."""

    streams: bool
    look: float
    """From asking for what carries marks, if it is there, to having it; 0 where nothing does."""
    prepare: float
    """A streaming task's start once its input has come, once for a run of tasks with one input."""
    again: float
    """The same right after a run of other tasks with that input, which the worker then holds."""
    input_first: float
    """Bytes of a streaming task's input that come before its first product."""
    input_rest: float
    """Those that come beside products."""
    inputs: frozenset[str]
    work: Floats
    """A streaming task's products, all stages there; all of any other task beside DRAM."""
    merge: float
    """Of the work of an attention that joins other chunks, what is left once these are there."""
    dram: Floats
    """Bytes that a task that does not stream reads from DRAM itself."""
    code: float
    """Bytes of its body's instructions."""
    body: tuple[object, ...]
    """Families of equal bodies have equal ones."""

    def begin(self, machine: Machine) -> float:
        """A streaming task's start, the memory idle: reading its input and preparing it."""
        timing = machine.timing
        return self.prepare + (timing.l2_share * timing.dram_latency if self.input_first else 0.0)


def times_of(cost: FamilyCost, machine: Machine) -> FamilyTimes:
    """The times of a family's tasks."""
    timing = machine.timing
    zero = np.zeros(len(cost.stages), np.float64)
    streamed = int(cost.streamed.max(initial=0))
    body = (cost.loop, streamed, cost.stage_bytes, cost.common, int(cost.written.max(initial=0)))
    code = float(timing.code_of_body)
    prepare = again = merge = 0.0
    first = 0
    look = timing.l2_latency if cost.is_polled else 0.0
    match cost.loop:
        case Loop.JOIN:
            work, dram, code = zero, zero, 0.0
        case Loop.STREAM:
            first = min(cost.common, INPUT_AT_ONCE * (2 if cost.tokens > MANY_TOKENS else 1))
            prepare = again = timing.prepare
            if not cost.is_polled:
                prepare += timing.l2_latency
            elif not cost.is_packed:
                prepare += timing.element * cost.columns / LANES
            work, dram = timing.task + _products(cost, timing), zero
            if not cost.is_packed:
                unrolled = streamed if streamed <= timing.unrolled else cost.stage_bytes
                code += timing.code_of_weights * unrolled
        case Loop.DIRECT:
            reads = (cost.common + cost.own) / (timing.l2_bandwidth * KILO)
            products = cost.dram / (timing.products * KILO)
            work = timing.body + timing.l2_latency + reads + products
            dram = cost.dram.astype(np.float64)
        case Loop.ATTENTION:
            chunk = timing.chunk * (cost.rows > 0) + cost.flops / (timing.attention * KILO)
            merge = timing.merge + timing.join * cost.joined if cost.joined else 0.0
            work = timing.body + chunk + merge
            dram = cost.dram.astype(np.float64)
        case Loop.REDUCE | Loop.MAP:
            touched = np.maximum(cost.own + cost.dram, cost.written)
            body_time = timing.body if cost.loop is Loop.REDUCE else timing.pointwise
            work, dram = body_time + timing.l2_latency + touched / (timing.plain * KILO), zero
    does_stream = cost.loop is Loop.STREAM
    rest = cost.common - first if does_stream else 0
    return FamilyTimes(
        does_stream,
        look,
        prepare,
        again,
        first,
        rest,
        cost.inputs,
        work,
        merge,
        dram,
        code,
        body,
    )


def _products(cost: FamilyCost, timing: Timing) -> Floats:
    """Of each task, all stages there."""
    stages = cost.stages.astype(np.float64)
    if cost.is_packed:
        return stages * timing.packed_stage
    return stages * timing.stage + cost.streamed / (timing.products * KILO)


def total_bytes(costs: Sequence[FamilyCost]) -> int:
    """Bytes from DRAM in a step."""
    return sum(int(cost.bytes.sum()) for cost in costs)
