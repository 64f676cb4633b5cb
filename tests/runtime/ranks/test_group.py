"""Ranks find each other, wait for each other, and say who is missing."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from mpkir.errors import MpkirError
from mpkir.runtime.ranks import group as group_module
from mpkir.runtime.ranks.group import Group
from mpkir.runtime.ranks.shared_memory import SharedMemory


def test_what_each_rank_gives_comes_in_their_order(run_ranks: Any):
    def rank(number: int) -> list[list[bytes]]:
        group = Group.join(3)
        rounds = [group.gather(b"%d.%d" % (number, k)) for k in range(4)]
        assert (group.rank, group.ranks, group.number_on_host) == (number, 3, number)
        assert group.is_one_host
        group.leave()
        return rounds

    wanted = [[b"%d.%d" % (r, k) for r in range(3)] for k in range(4)]
    assert run_ranks(rank, 3) == [wanted] * 3


def test_no_rank_is_forked_beside_the_stores_thread(
    run_ranks: Any, monkeypatch: pytest.MonkeyPatch
):
    """Or it may find a lock of the C library's taken by a thread that it does not have."""
    beside: list[set[str]] = []
    fork = os.fork

    def seen() -> int:
        beside.append({file.read_text() for file in Path("/proc/self/task").glob("*/comm")})
        return fork()

    monkeypatch.setattr(os, "fork", seen)
    for _ in range(2):
        assert run_ranks(lambda number: Group.join(3).rank, 3) == [0, 1, 2]
    assert len(beside) == 6
    assert not any("store" in name for names in beside for name in names)


def test_all_ranks_write_each_others_memory_and_leave_nothing(run_ranks: Any):
    def rank(number: int) -> bytes:
        group = Group.join(3)
        heap = SharedMemory(4096, group)
        assert heap.deltas[number] == 0
        assert not heap.memory.any()
        group.barrier()
        import ctypes

        for delta in heap.deltas:
            ctypes.memset(heap.memory.data_ptr() + delta + number, 7 + number, 1)
        group.barrier()
        seen = bytes(heap.memory[:4].tolist())
        group.leave()
        return seen

    before = set(os.listdir("/dev/shm"))
    assert run_ranks(rank, 3) == [bytes([7, 8, 9, 0])] * 3
    assert set(os.listdir("/dev/shm")) <= before


def test_a_rank_that_dies_is_named_by_those_who_wait_and_leaves_nothing(run_ranks: Any):
    def rank(number: int) -> Any:
        group = Group.join(3)
        SharedMemory(4096, group)
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        begun = monotonic()
        with pytest.raises(MpkirError) as caught:
            group.barrier()
        return str(caught.value), monotonic() - begun

    before = set(os.listdir("/dev/shm"))
    answers = run_ranks(rank, 3)
    assert answers[1] == signal.SIGKILL
    for text, seconds in (answers[0], answers[2]):
        # Who finds out first tells the other.
        assert re.search(r"rank 1 \(process \d+ on .*\) has died", text)
        assert seconds < 5
    assert set(os.listdir("/dev/shm")) <= before


def test_a_rank_that_does_not_come_is_named(run_ranks: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MPKIR_JOIN_SECONDS", "1")
    for error in run_ranks(lambda number: Group.join(3), 3, but=(1,)):
        assert isinstance(error, MpkirError)
        assert error.what == "rank 1 of 3 did not come"


def test_why_a_rank_does_not_go_on_is_told_to_the_others(run_ranks: Any):
    def rank(number: int) -> None:
        group = Group.join(2)
        if number == 1:
            raise group.fail(MpkirError("its disk is full", where="/data"))
        group.barrier()

    first, second = run_ranks(rank, 2)
    assert re.search(r"^rank 1 \(.*\) does not go on: /data: its disk is full$", str(first))
    assert second.what == "its disk is full"


def test_a_rank_that_has_left_is_not_waited_for(run_ranks: Any):
    def rank(number: int) -> None:
        group = Group.join(2)
        if number == 1:
            group.leave()
            sleep(1)
        group.barrier()

    first, second = run_ranks(rank, 2)
    assert "does not go on: it has ended" in str(first)
    assert "this rank has left the others" in str(second)


def test_the_store_serves_no_longer_than_ranks_need_it(run_ranks: Any):
    """Rank 0 serves where nobody else does; the port is free when it has left."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def rank(number: int) -> None:
        os.environ |= {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "False"}
        group = Group.join(2)
        group.barrier()
        group.leave()

    assert run_ranks(rank, 2) == [None, None]
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "4 ranks run the program, and this process is alone"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "4 ranks run the program, and 2 processes were started"),
        ({"RANK": "one", "WORLD_SIZE": "4"}, "RANK is 'one', expected a number"),
        ({"RANK": "0", "WORLD_SIZE": "4"}, "MASTER_ADDR and MASTER_PORT are not set"),
    ],
)
def test_an_environment_that_is_none(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MpkirError, match=re.escape(message)):
        Group.join(4)


def test_a_process_without_a_machine_is_not_called_dead(tmp_path: Path):
    from dataclasses import replace

    from mpkir.runtime.ranks.identity import Identity

    own = Identity.own(0)
    gone = replace(own, rank=1, started=own.started - 1)  # the id was used again
    assert gone.is_gone(own)
    assert not own.is_gone(own)
    assert not replace(gone, machine="elsewhere").is_gone(own)
    assert not replace(gone, machine="").is_gone(replace(own, machine=""))


def test_who_waits_for_long_leaves_the_cores_to_who_works(
    run_ranks: Any, monkeypatch: pytest.MonkeyPatch
):
    pauses: list[float] = []

    def counted(seconds: float) -> None:
        pauses.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(group_module, "sleep", counted)

    def rank(number: int) -> tuple[int, float]:
        group = Group.join(2)
        group.barrier()
        pauses.clear()
        if number == 0:
            sleep(1)
        begun = monotonic()
        group.barrier()
        return len(pauses), monotonic() - begun

    (_, _), (looks, seconds) = run_ranks(rank, 2)
    assert seconds > 0.9
    assert looks < 150  # and 500, every two milliseconds


def test_torch_knows_the_same_ranks(run_ranks: Any):
    """What torch's symmetric memory asks for; nothing of it stays when the rank leaves."""

    def rank(number: int) -> tuple[int, int, bool]:
        import torch.distributed as dist

        group = Group.join(2)
        known = group.process_group
        assert group.process_group is known
        assert dist.get_backend() == "gloo"
        group.leave()
        return known.rank(), known.size(), dist.is_initialized()

    assert run_ranks(rank, 2) == [(0, 2, False), (1, 2, False)]


def test_no_rank_leaves_while_another_still_connects(
    run_ranks: Any, monkeypatch: pytest.MonkeyPatch
):
    """Its end of a connection would be gone: gloo calls that a remote worker crashing."""
    import torch.distributed as dist

    connect = dist.init_process_group

    def rank(number: int) -> float:
        def slowly(*arguments: Any, **options: Any) -> None:
            connect(*arguments, **options)
            sleep(0.5 if number == 0 else 0)

        monkeypatch.setattr(dist, "init_process_group", slowly)
        group = Group.join(2)
        group.barrier()
        begun = monotonic()
        assert group.process_group
        seconds = monotonic() - begun
        group.leave()
        return seconds

    assert min(run_ranks(rank, 2)) > 0.4
