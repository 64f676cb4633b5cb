"""Where ranks meet: the environment that `torchrun` sets, and the store that it names."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from itertools import count
from time import monotonic, sleep
from typing import NoReturn

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from mpkir.errors import MpkirError

JOIN_S = 10.0
"""Seconds for which a rank waits for the others to come; $MPKIR_JOIN_SECONDS overrides it."""

_POLL_S = 0.04
_STORE = timedelta(seconds=30)
_groups = count()
"""Each group of a process has its own names in the store; all ranks make the same ones in turn."""


def open_store(rank: int) -> Store:
    """A connection to the store that torchrun, or rank 0, serves, for one more group of ranks."""
    address, port = os.environ.get("MASTER_ADDR"), number_of("MASTER_PORT")
    if not address or not port:
        _refuse_environment("MASTER_ADDR and MASTER_PORT are not set")
    serves = serves_store(rank)
    if not serves:
        _await_server(address, port)
    try:
        store = TCPStore(
            address, port, None, serves, _STORE, wait_for_workers=False, multi_tenant=True
        )
    except RuntimeError as error:
        first = str(error).partition("\n")[0]
        raise MpkirError(
            f"rank {rank} cannot {'serve' if serves else 'reach'} the ranks' store ({first})",
            where=f"{address}:{port}",
        ) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"mpkir/{attempt}/{next(_groups)}", store)


def serves_store(rank: int) -> bool:
    """Whether the ranks meet in a store of this process's: nobody started them who has one."""
    return rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


def _await_server(address: str, port: int) -> None:
    """Return when somebody listens. torch would wait as well, and print a stack trace."""
    end = monotonic() + join_seconds()
    while True:
        try:
            socket.create_connection((address, port), 1).close()
            return
        except OSError as error:
            if monotonic() > end:
                raise MpkirError(
                    f"rank 0 did not come ({error.strerror or error})",
                    where=f"{address}:{port}",
                    hint="start all ranks; $MPKIR_JOIN_SECONDS gives slow ones more time",
                ) from error
            sleep(_POLL_S)


def join_seconds() -> float:
    """How long to wait for ranks to come."""
    return float(os.environ.get("MPKIR_JOIN_SECONDS") or JOIN_S)


def number_of(name: str) -> int | None:
    """A number from the environment; None if it is not set."""
    text = os.environ.get(name)
    if not text:
        return None
    if not text.isdecimal():
        _refuse_environment(f"{name} is {text!r}, expected a number")
    return int(text)


def _refuse_environment(what: str) -> NoReturn:
    raise MpkirError(what, where="environment", hint="start the ranks with torchrun")
