"""How long what carries marks takes from a store to who looks for it, on the same rank and on
others; microseconds.

A rank stores its row of an exchange buffer in the memory of every other: to those of its host over
its link, to others over the network, as many times as there are. The tasks of a row end nearly
together, so who waits for the last of them waits for all of the row.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from mpkir.analysis.flag_edges import FlagEdge
from mpkir.analysis.storage import bytes_of
from mpkir.analysis.task_times import KILO
from mpkir.machine import Machine


def flag_time(flag: FlagEdge, ranks: int, machine: Machine) -> float:
    """From the last store of a group to all of its readers' having seen it."""
    if not flag.crosses_ranks:
        return machine.hops.flag
    return machine.hops.peer + sending_time(bytes_of(flag.buffer) // ranks, ranks, machine)


def sending_time(size: int, ranks: int, machine: Machine) -> float:
    """A rank's sending so many bytes to each of the others, beside the hop."""
    timing = machine.timing
    near = min(ranks, timing.host_devices) - 1
    far = ranks - 1 - near
    time = near * size / (timing.link_bandwidth * KILO)
    if far:
        across = timing.network + far * size / (timing.network_bandwidth * KILO)
        time = max(time, across)
    return time


def kept_home(machine: Machine) -> Machine:
    """A machine whose ranks send themselves what they would send to others: what a step takes less
    on it is exposed communication.
    """
    timing = replace(machine.timing, link_bandwidth=inf, network=0.0, network_bandwidth=inf)
    return replace(machine, hops=replace(machine.hops, peer=machine.hops.flag), timing=timing)
