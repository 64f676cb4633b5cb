"""What host and kernel hand each other at a launch: the structures of include/mpk/abi.{hpp,cuh}."""

from __future__ import annotations

import ctypes

from mpkir.runtime.queues import Dynamic


class LaunchArgs(ctypes.Structure):
    """The argument of `mpk_run`; a GPU's has more behind it."""

    _fields_ = (
        ("buffers", ctypes.c_void_p),
        ("tasks", ctypes.c_void_p),
        ("workers", ctypes.c_void_p),
        ("families", ctypes.c_void_p),
        ("counters", ctypes.c_void_p),
        ("control", ctypes.c_void_p),
        ("position", ctypes.c_longlong),
        ("steps", ctypes.c_int),
        ("epoch", ctypes.c_uint),
        ("watchdog", ctypes.c_longlong),
        ("dynamic", Dynamic),
    )


class GpuLaunchArgs(LaunchArgs):
    """The kernel's one argument: dynamic tasks are looked up on the host."""

    _fields_ = (("dynamic_tasks", ctypes.c_void_p),)


class Answer(ctypes.Structure):
    """What a GPU's launch tells the host in the host's memory."""

    _fields_ = (("stop_at", ctypes.c_int), ("fault", ctypes.c_int))


class Control(ctypes.Structure):
    """What a launch leaves behind; only a GPU's has an answer and what is told meanwhile."""

    _fields_ = (
        ("stop_at", ctypes.c_int),
        ("fault", ctypes.c_int),
        ("fault_worker", ctypes.c_int),
        ("fault_task", ctypes.c_int),
        ("fault_event", ctypes.c_int),
        ("fault_seen", ctypes.c_uint),
        ("fault_wanted", ctypes.c_uint),
        ("events", ctypes.c_int),
        ("stands", ctypes.c_void_p),
        ("answer", ctypes.c_void_p),
        ("told", ctypes.c_void_p),
    )


class Stand(ctypes.Structure):
    """Where a worker stood when a launch failed."""

    _fields_ = (
        ("polls", ctypes.c_ulonglong),
        ("finished", ctypes.c_ulonglong),
        ("kind", ctypes.c_int),
        ("step", ctypes.c_int),
        ("task", ctypes.c_int),
        ("event", ctypes.c_int),
        ("seen", ctypes.c_uint),
        ("wanted", ctypes.c_uint),
        ("reserved", ctypes.c_int * 6),
    )
