"""What a program that may reach far ranks knows besides: `struct Far` of mpk/nvshmem.cuh."""

from __future__ import annotations

import ctypes

FAR = "mpk_far"
"""The variable of a binary that holds it; only those compiled for NVSHMEM have it."""


class Far(ctypes.Structure):
    """Which ranks are far, and how they and this one tell each other of the peers' events."""

    _fields_ = (
        ("ranks", ctypes.c_uint32),
        ("events", ctypes.c_int),
        ("counters", ctypes.c_void_p),
        ("own", ctypes.c_void_p),
        ("steps", ctypes.c_void_p),
        ("told", ctypes.c_void_p),
    )
