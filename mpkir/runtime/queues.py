"""Memory for the queues of dynamic tasks, as the kernels lay it out (include/mpk/queues.*)."""

from __future__ import annotations

import ctypes

from mpkir.runtime.table import Table

PLACES = 16
"""64-bit words of a queue before its places: where it is taken from, how many were put in."""

_LINE = 8
"""64-bit words of a cache line, in which two queues should not meet."""


class Dynamic(ctypes.Structure):
    """What a launch has to know of dynamic tasks: `struct Dynamic` of include/mpk/abi.*."""

    _fields_ = (
        ("released", ctypes.c_void_p),
        ("queues", ctypes.c_void_p),
        ("stride", ctypes.c_int),
        ("first", ctypes.c_int),
        ("count", ctypes.c_int),
        ("last_event", ctypes.c_int),
        ("last_arrivals", ctypes.c_int),
    )


def queue_words(table: Table) -> int:
    """64-bit words from the begin of one worker's queue to that of the next; 0 without any.

    Dynamic task number j always goes through queue j mod workers, once a step.
    """
    if not table.dynamic_count:
        return 0
    places = -(-table.dynamic_count // table.worker_count)
    return PLACES + -(-places // _LINE) * _LINE


def dynamic_part(table: Table, released: int, queues: int) -> Dynamic:
    """The part of a launch's arguments about dynamic tasks, given the addresses of
    `Table.released` and of the queues; all zero for a table without any."""
    if not table.dynamic_count:
        return Dynamic()
    last = table.last_event()
    return Dynamic(
        released,
        queues,
        queue_words(table),
        table.first_dynamic,
        table.dynamic_count,
        last,
        int(table.events[last]),
    )
