"""Starts a command once for each rank, on this host, as torchrun would, and sees them to their end.

The store in which they meet is this process's, so it outlives each of them: whoever is left can
still learn who is gone.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from time import monotonic, sleep
from typing import IO

from torch._C._distributed_c10d import TCPStore

from mpkir.errors import MpkirError

LOOPBACK = "127.0.0.1"
GRACE_S = 10.0
"""Seconds for which ranks may go on when one has failed: to find that out, and say so."""

_POLL_S = 0.05
_STORE_S = timedelta(seconds=30)
_SHOWN_BYTES = 2000


def is_rank() -> bool:
    """Whether this process was started as one of several, by torchrun or by `run_ranks`."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank_here() -> int:
    """The own number; 0 for a process that is alone."""
    return int(os.environ["RANK"]) if is_rank() else 0


def run_ranks(command: Sequence[str], ranks: int) -> int:
    """Run a command in `ranks` processes; 0, or the exit code of the first that failed.

    Rank 0 has this process's streams. What the others print is not shown, unless one of them fails
    first: then the end of it.
    """
    try:
        store = TCPStore(LOOPBACK, 0, None, True, _STORE_S, wait_for_workers=False)
    except RuntimeError as error:
        raise MpkirError(
            f"no port for the ranks to meet ({str(error).partition(chr(10))[0]})", where=LOOPBACK
        ) from error
    with ExitStack() as stack:
        said = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(ranks)]
        processes: list[subprocess.Popen[bytes]] = []
        stack.callback(_end, processes)
        for rank in range(ranks):
            environment = _environment(rank, ranks, store.port)
            processes.append(_started(command, environment, said[rank] if rank else None))
        first = _first_failure(processes)
        if first is None:
            return 0
        _await(processes, GRACE_S)
        code = processes[first].returncode
        if first > 0:
            _show(first, code, said[first])
        return code if code > 0 else 128 - code


def _environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """torchrun's variables, and threads for each rank's share of the host."""
    own = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": ranks,
        "LOCAL_WORLD_SIZE": ranks,
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": port,
        "TORCHELASTIC_USE_AGENT_STORE": True,
    }
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    return (
        {"OMP_NUM_THREADS": str(threads)} | dict(os.environ) | {k: str(v) for k, v in own.items()}
    )


def _started(
    command: Sequence[str], environment: Mapping[str, str], said: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    if said is None:
        return subprocess.Popen(command, env=environment)
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
    )


def _first_failure(processes: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait until all have ended well, or one has not: its number."""
    while True:
        codes = [process.poll() for process in processes]
        for rank, code in enumerate(codes):
            if code:
                return rank
        if None not in codes:
            return None
        sleep(_POLL_S)


def _await(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    end = monotonic() + seconds
    while monotonic() < end and any(process.poll() is None for process in processes):
        sleep(_POLL_S)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Leave no process behind."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    _await(processes, 2)
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def _show(rank: int, code: int, said: IO[bytes]) -> None:
    """Print how a rank ended, on standard error."""
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - _SHOWN_BYTES))
    text = said.read().decode(errors="replace").strip()
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    os.write(2, f"rank {rank} {how}{': ' if text else ''}{text}\n".encode())
