"""What a program of several ranks knows of the others: `struct Peers` of include/mpk/abi.*."""

from __future__ import annotations

import ctypes

from mpkir.runtime.manifest import MAX_RANKS

PEERS = "mpk_peers"
"""The variable of a binary that holds it; programs of one rank have none."""


class Peers(ctypes.Structure):
    """The own number, and where the others' memory lies."""

    _fields_ = (
        ("rank", ctypes.c_int),
        ("ranks", ctypes.c_int),
        ("first_peer_event", ctypes.c_int),
        ("reserved", ctypes.c_int),
        ("delta", ctypes.c_longlong * MAX_RANKS),
    )
