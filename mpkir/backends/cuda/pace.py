"""How fast weights are asked for while a worker has enough of them.

A step of a small model is not bound by memory: between products its tasks wait for each other, and
what they wait with is polls. A loader that fills each slot as soon as it is free asks for weights
just then, so polls queue behind them. It has the time of the entire step; asked for at the step's
own pace, weights come just as well and are in nobody's way.
"""

from __future__ import annotations

from math import prod

from xdsl.dialects.builtin import FixedBitwidthType, ModuleOp

from mpkir.dialects import task
from mpkir.machine import Machine


def pace_of(module: ModuleOp, machine: Machine) -> int:
    """Clock cycles from one stage of the ring to the next at which a step's weights come in time.

    A stage's share of the memory, longer by as much as a step is longer than its weights take:
    every family of tasks waits for the one before. 0 where the machine model does not say how long
    (`ring.exposed_us`), or nothing is streamed; what `ring.pace` says comes first.
    """
    ring = machine.ring
    if ring.pace is not None:
        return ring.pace
    grids = [op for op in module.walk() if isinstance(op, task.GridOp)]
    streamed = {
        task.buffer_of(value)
        for grid in grids
        if grid.stream is not None
        for value in grid.reads
        if task.buffer_of(value).kind.data is task.BufferKind.WEIGHT
    }
    bandwidth = machine.memory_bandwidth * 1e3  # bytes a microsecond
    stream_us = sum(map(_bytes_of, streamed)) / bandwidth
    if not stream_us or not ring.exposed_us:
        return 0
    stage_us = ring.slot_bytes * machine.workers / bandwidth
    return round(stage_us * (1 + ring.exposed_us * len(grids) / stream_us) * ring.clock_mhz)


def _bytes_of(buffer: task.BufferOp) -> int:
    type = task.memref_type_of(buffer.result)
    element = type.get_element_type()
    assert isinstance(element, FixedBitwidthType)
    return prod(type.get_shape()) * element.bitwidth // 8
