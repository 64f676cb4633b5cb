"""Memory for the queues of dynamic tasks, as the kernels lay it out (include/mpk/queues.*)."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from mpkir.errors import MpkirError
from mpkir.runtime.releases import Ints
from mpkir.runtime.table import FIRST_OPERAND, MAX_OPERANDS, FamilyField, Table, TaskField

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


def check_serves(table: Table, serves: bool, where: str | None = None) -> None:
    """Raise MpkirError where a table has dynamic tasks and its binary runs none, or the other way
    about."""
    if serves != (table.dynamic_count > 0):
        raise MpkirError(
            f"the table has {table.dynamic_count} tasks to give out at run time, and the binary "
            f"{'serves queues' if serves else 'serves no queues'}",
            where=where,
            hint="the artifact is damaged: compile it again",
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


def looked_up(table: Table, addresses: npt.NDArray[np.uint64]) -> Ints:
    """Each dynamic task with its family and operands: `struct Released` of include/mpk/abi.cuh;
    [d, 32].

    addresses: of the buffers, by id
    """
    tasks, f = table.tasks[table.first_dynamic :], TaskField
    families = table.families[tasks[:, f.FAMILY]]
    operands = np.append(addresses, np.uint64(0))[families[:, FIRST_OPERAND:]]
    columns = (
        families[:, FamilyField.BODY],
        tasks[:, f.INDEX],
        tasks[:, f.FAMILY],
        np.arange(table.first_dynamic, table.task_count),
        tasks[:, f.SIGNAL_EVENT],
        tasks[:, f.SIGNAL_AMOUNT],
        tasks[:, f.RELEASE_ARRIVALS],
        np.zeros(len(tasks)),
    )
    result = np.zeros((len(tasks), 2 * MAX_OPERANDS + len(columns)), np.int32)
    result[:, : 2 * MAX_OPERANDS] = np.ascontiguousarray(operands).view(np.int32)
    result[:, 2 * MAX_OPERANDS :] = np.stack(columns, axis=1)
    return result
