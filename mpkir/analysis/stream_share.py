"""How much of a step is the stream of its weights, and how much its families wait for each other.

In a large model's step memory is all that matters: a stage more in flight is bandwidth. In a small
one's families wait for each other, and what they wait with is polls, which queue behind weights.
"""

from __future__ import annotations

from math import prod

from xdsl.dialects.builtin import FixedBitwidthType, ModuleOp

from mpkir.dialects import task
from mpkir.machine import Machine


def waiting_share(module: ModuleOp, machine: Machine) -> float:
    """Time that a step's families wait, each for the one before, over the time its weights stream.

    0 where nothing streams, or the machine model does not say how long a wait is
    (`ring.exposed_us`).
    """
    grids = [op for op in module.walk() if isinstance(op, task.GridOp)]
    streamed = {
        task.buffer_of(value)
        for grid in grids
        if grid.stream is not None
        for value in grid.reads
        if task.buffer_of(value).kind.data is task.BufferKind.WEIGHT
    }
    stream_us = sum(map(_bytes_of, streamed)) / (machine.memory_bandwidth * 1e3)
    return machine.ring.exposed_us * len(grids) / stream_us if stream_us else 0.0


def in_flight_of(module: ModuleOp, machine: Machine) -> int:
    """How many stages are asked for and not landed, at most."""
    if machine.ring.in_flight:
        return machine.ring.in_flight
    streaming, waiting = machine.ring.in_flights
    return waiting if waiting_share(module, machine) > machine.ring.waits_from else streaming


def _bytes_of(buffer: task.BufferOp) -> int:
    type = task.memref_type_of(buffer.result)
    element = type.get_element_type()
    assert isinstance(element, FixedBitwidthType)
    return prod(type.get_shape()) * element.bitwidth // 8
