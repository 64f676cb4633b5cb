"""How fast weights are asked for while a worker has enough of them.

A step of a small model is not bound by memory: between products its tasks wait for each other, and
what they wait with is polls. A loader that fills each slot as soon as it is free asks for weights
just then, so polls queue behind them. It has the time of the entire step; asked for at the step's
own pace, weights come just as well and are in nobody's way.
"""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp

from mpkir.analysis.stream_share import waiting_share
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
    share = waiting_share(module, machine)
    stage_us = ring.slot_bytes * machine.workers / (machine.memory_bandwidth * 1e3)
    return round(stage_us * (1 + share) * ring.clock_mhz) if share else 0
