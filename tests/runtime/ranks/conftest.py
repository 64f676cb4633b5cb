"""Ranks as forked processes of the test, and a program of two ranks by hand."""

from __future__ import annotations

import atexit
import faulthandler
import os
import pickle
import select
import signal
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import torch
import torch.distributed as dist
from xdsl.parser import Parser

from mpkir.backends.body import bodies_of
from mpkir.backends.cpu.emit import emit
from mpkir.backends.table import table_of
from mpkir.errors import MpkirError
from mpkir.pipeline import context
from mpkir.runtime.artifact import Artifact, write_artifact
from mpkir.runtime.cpu import build
from mpkir.runtime.host import cpu_arch
from mpkir.runtime.manifest import Buffer, Manifest, Shard, Signature, Target

LOOPBACK = "127.0.0.1"
STORE_S = timedelta(seconds=30)
LIMIT_S = 60.0

RunRanks = Callable[..., list[Any]]


@pytest.fixture
def run_ranks(monkeypatch: pytest.MonkeyPatch) -> RunRanks:
    """`run_ranks(function, ranks, but=())`: what `function(rank)` gives on each rank but those;
    the MpkirError that it raises, or, for one that dies, the number of its signal."""

    def run(function: Callable[[int], Any], ranks: int, but: Sequence[int] = ()) -> list[Any]:
        children: dict[int, tuple[int, int]] = {}
        with socket.create_server((LOOPBACK, 0), backlog=4 * ranks) as listener:
            monkeypatch.setenv("MASTER_ADDR", LOOPBACK)
            monkeypatch.setenv("MASTER_PORT", str(listener.getsockname()[1]))
            monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
            try:
                for rank in range(ranks):
                    if rank not in but:
                        children[rank] = _forked(function, rank, ranks, listener)
                # The store's thread looks addresses up for what it logs of a connection. Who is
                # forked meanwhile finds the C library's lock on that taken, for ever: so it comes
                # last, and who is faster waits in the socket's queue.
                store = _store(listener)
                end = monotonic() + LIMIT_S
                answers = [_answer(rank, *children[rank], end) for rank in children]
                del store
                return answers
            finally:
                for pid, _ in children.values():
                    _end(pid)

    return run


def _store(listener: socket.socket) -> dist.TCPStore:
    """What torchrun's agent serves, at a socket that listens already."""
    port = listener.getsockname()[1]
    return dist.TCPStore(
        LOOPBACK,
        port,
        None,
        True,
        STORE_S,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),  # which it closes
    )


def _forked(
    function: Callable[[int], Any], rank: int, ranks: int, listener: socket.socket
) -> tuple[int, int]:
    """A child that calls a function as a rank; its process id and where its answer comes from."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writes)
        return pid, reads
    try:
        listener.close()
        atexit._clear()
        # Threads of OpenMP do not survive a fork.
        torch.set_num_threads(1)
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks)}
        faulthandler.register(signal.SIGALRM, file=2)
        signal.alarm(int(LIMIT_S) - 2)
        try:
            answer = (True, function(rank))
        except MpkirError as error:
            answer = (False, (error.what, error.where, error.hint))
        atexit._run_exitfuncs()  # those of the rank, before an _exit that runs none
        with os.fdopen(writes, "wb") as pipe:
            pickle.dump(answer, pipe)
    except BaseException as error:
        print(f"rank {rank}: {error!r}", flush=True)
        os._exit(1)
    os._exit(0)


def _answer(rank: int, pid: int, reads: int, end: float) -> Any:
    data = b""
    with os.fdopen(reads, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(0.0, end - monotonic()))[0]:
            more = pipe.read(1 << 20)
            if not more:
                break
            data += more
        else:
            pytest.fail(f"rank {rank} has not answered in {LIMIT_S:.0f} s: see where it stands")
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not data:
        return -status
    is_result, answer = pickle.loads(data)
    return answer if is_result else MpkirError(answer[0], where=answer[1], hint=answer[2])


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


@pytest.fixture(scope="session")
def weight() -> torch.Tensor:
    """Of the program: f32 [64, 32], half of the rows for each rank."""
    return torch.arange(64 * 32).float().view(64, 32) / 100


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory, weight: torch.Tensor) -> Artifact:
    """two_ranks.mlir as an artifact that holds its weight."""
    text = (Path(__file__).parent / "two_ranks.mlir").read_text(encoding="utf-8")
    module = Parser(context(), text).parse_module()
    module.verify()
    table = table_of(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPKIR_CACHE", str(tmp_path_factory.mktemp("cache")))
        source = emit(bodies_of(module), table.worker_count, 1)
        binary = build(source).read_bytes()
    manifest = Manifest(
        target=Target("cpu", "cpu", cpu_arch(), table.worker_count),
        buffers=(
            Buffer("x", "input", "float32", (1, 32)),
            Buffer("w", "weight", "float32", (32, 32), source="w", shard=Shard(0, 2)),
            Buffer("parts", "scratch", "float32", (2, 1, 32), exchange=True),
            Buffer("z", "output", "float32", (1, 1, 32)),
            Buffer("half", "output", "float32", (1, 32), shard=Shard(1, 2)),
        ),
        bodies=table.names.bodies,
        families=table.names.families,
        events=table.names.events,
        source="kernel.cpp",
        binary="kernel.so",
        ranks=table.ranks,
        peer_events=table.peer_events,
        signature=Signature(("x",), ("z", "half")),
    )
    return write_artifact(
        tmp_path_factory.mktemp("artifact") / "two",
        manifest,
        table,
        source=source,
        binary=binary,
        weights={"w": weight},
    )
