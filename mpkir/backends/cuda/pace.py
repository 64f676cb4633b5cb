"""How fast weights are asked for while a worker has enough of them, and what is asked for beyond.

A loader that fills each slot of the ring as soon as it is free asks for weights just then, when
everybody waits with polls, which queue behind weights. At the memory's own pace, and a little
slower, weights come just as well and are in nobody's way. Where caches are long, attention reads
them out of the same memory meanwhile, and the stream leaves time for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from xdsl.dialects.builtin import ModuleOp

from mpkir.analysis.stream_share import waiting_share
from mpkir.dialects import tensor
from mpkir.machine import Machine


@dataclass(frozen=True)
class Pace:
    """Of a program's loaders."""

    cycles: int
    """Clock cycles from one stage of a nearly full ring to the next; 0: as fast as it goes."""
    long_cycles: int
    """The same from position `long_from` on."""
    long_from: int
    """0: never."""
    ahead: int
    """Stages behind a full ring that L2 is asked for, at most."""


def pace_of(module: ModuleOp, machine: Machine) -> Pace:
    """A stage's share of the memory's time and a margin; from `ring.long_from` on, and where the
    machine model has no margin, it is longer by as much as a step is longer than its weights take,
    for every family of tasks waits for the one before.

    No pace where the machine model does not say how long a wait is (`ring.exposed_us`), or nothing
    is streamed; what `ring.pace` says comes first. Stages are asked for ahead where the memory has
    nothing else to do: with many rows of x, which come slowly, and where the stream is nearly all
    of a step (`ring.ahead_below`); not where families wait more than it does (`ring.waits_from`),
    whose polls it would be in the way of.
    """
    ring = machine.ring
    share = waiting_share(module, machine)
    if not share:
        return Pace(ring.pace or 0, ring.pace or 0, 0, 0)
    stage = ring.slot_bytes * machine.workers / (machine.memory_bandwidth * 1e3) * ring.clock_mhz
    long_cycles = round(stage * (1 + share))
    cycles = long_cycles if ring.margin is None else round(stage * (1 + ring.margin))
    if ring.pace is not None:
        cycles = long_cycles = ring.pace
    products = [op for op in module.walk() if isinstance(op, tensor.LinearOp)]
    rows = max((prod(tensor.shape_of(op.x)[:-1]) for op in products), default=0)
    is_many = 0 < ring.ahead_rows <= rows and share <= ring.waits_from
    ahead = ring.ahead if is_many or share < ring.ahead_below else 0
    return Pace(cycles, max(cycles, long_cycles), ring.long_from, ahead)
