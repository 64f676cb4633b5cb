"""The ranks that run one program: how they find each other, wait for each other, and tell who is
missing.

They meet in a store of torch.distributed's, under the environment that `torchrun` sets; `mpk`
starts ranks with the same. Nothing here waits for a rank that is gone: whoever waits looks at the
others meanwhile.
"""

from __future__ import annotations

import atexit
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic, sleep
from typing import NoReturn

import torch.distributed as dist

from mpkir.errors import MpkirError
from mpkir.runtime.manifest import Place
from mpkir.runtime.ranks.heartbeat import Heartbeat
from mpkir.runtime.ranks.identity import Identity

JOIN_S = 10.0
"""Seconds for which a rank waits for the others to come; $MPKIR_JOIN_SECONDS overrides it."""
LAUNCH_S = 6.0
"""Seconds without progress after which a launch is ended: the others may begin theirs later."""

_LEAVE_S = 3.0
"""Seconds for which rank 0 serves the others after it has ended itself."""
_POLL_S = 0.002
_STORE_S = timedelta(seconds=30)
_START = "start the ranks with torchrun --nproc-per-node {}, or let `mpk generate --tp {}` do it"


class Group:
    """This process among the ranks of a program.

    rank, ranks  the own number, and how many there are
    members      who they are, in their order
    """

    def __init__(self, store: dist.Store, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks
        self._store, self._serves = store, _serves_store(rank)
        self._round = 0
        self._broken: MpkirError | None = None
        self._process_group: dist.ProcessGroup | None = None
        self._owns_process_group = False
        self.members: Sequence[Identity] = ()
        try:
            self.members = self._meet(Identity.own(rank))
            self._heartbeat = Heartbeat(store, self.members, self.members[rank])
        except RuntimeError as error:
            raise self._store_lost() from error
        atexit.register(self.leave)

    @staticmethod
    def join(ranks: int) -> Group:
        """Meet the other ranks under torchrun's environment. Raises MpkirError if there are not
        `ranks` of them, or one does not come."""
        rank, world = _number("RANK"), _number("WORLD_SIZE")
        if rank is None or world is None:
            raise MpkirError(
                f"{ranks} ranks run the program, and this process is alone",
                hint=_START.format(ranks, ranks),
            )
        if world != ranks:
            raise MpkirError(
                f"{ranks} ranks run the program, and {world} processes were started",
                hint=_START.format(ranks, ranks),
            )
        return Group(_store(rank), rank, ranks)

    @property
    def is_one_host(self) -> bool:
        """Whether all ranks run on one host and see each other."""
        machines = {member.machine for member in self.members}
        return len(machines) == 1 and machines != {""}

    @property
    def number_on_host(self) -> int:
        """How many lower ranks its host has. Number 0 does what a host needs once."""
        own = self.members[self.rank]
        return sum((m.host, m.machine) == (own.host, own.machine) for m in self.members[: own.rank])

    @property
    def place_on_host(self) -> Place:
        """Which of its host's ranks this is."""
        own = self.members[self.rank]
        same = sum((m.host, m.machine) == (own.host, own.machine) for m in self.members)
        return Place(self.number_on_host, same)

    @property
    def process_group(self) -> dist.ProcessGroup:
        """The same ranks as torch.distributed knows them, made at first use."""
        if self._process_group is None:
            if not dist.is_initialized():
                self._owns_process_group = True
                dist.init_process_group(
                    "gloo",
                    store=dist.PrefixStore("gloo", self._store),
                    rank=self.rank,
                    world_size=self.ranks,
                )
            group = dist.group.WORLD
            assert group is not None
            self._process_group = group
        return self._process_group

    def gather(self, value: bytes) -> list[bytes]:
        """What every rank gives, in their order. All have to call it, and in the same order.

        Raises MpkirError if a rank is gone or has failed.
        """
        self.check()
        self._round += 1
        keys = [f"gather/{self._round}/{rank}" for rank in range(self.ranks)]
        try:
            self._store.set(keys[self.rank], value)
            if self._round > 2:  # Whoever is in this round has read all of the last but one.
                self._store.delete_key(f"gather/{self._round - 2}/{self.rank}")
            for rank, key in enumerate(keys):
                while not self._store.check([key]):
                    lost = self._loss_of(rank)
                    if lost is not None and not self._store.check([key]):
                        raise self.fail(lost)
                    sleep(_POLL_S)
            return [self._store.get(key) for key in keys]
        except RuntimeError as error:
            raise self._store_lost() from error

    def barrier(self) -> None:
        """Wait until all ranks have come here."""
        self.gather(b"")

    def begin_launch(self) -> None:
        """Count a launch, so that ranks which wait in theirs know of it. Raises MpkirError where
        ranks have parted."""
        self.check()
        self._heartbeat.launches += 1

    def check(self) -> None:
        """Raise MpkirError if this group has failed before."""
        if self._broken is not None:
            raise MpkirError(
                f"the ranks have parted: {self._broken.what}",
                where=self._broken.where,
                hint="start all of them again",
            )

    def fail(self, error: MpkirError) -> MpkirError:
        """Tell the other ranks why this one does not go on; the error itself."""
        if self._broken is None:
            self._broken = error
            try:
                self._store.set(f"failed/{self.rank}", str(error))
            except RuntimeError:
                pass  # They see that this process has ended.
        return error

    def blame(self, error: MpkirError) -> MpkirError:
        """The error of what did not go on: of the rank that it waited for, if that can be told."""
        self._heartbeat.await_news()
        return self.fail(self._guilty(error) or error)

    def leave(self) -> None:
        """End the connections. The group cannot be used any more."""
        atexit.unregister(self.leave)
        self._heartbeat.stop()
        if self._broken is None:
            self._broken = MpkirError("this rank has left the others")
        try:
            if not self._store.check([f"failed/{self.rank}"]):
                self._store.set(f"failed/{self.rank}", "it has ended")
            self._await_others()
        except RuntimeError:
            pass  # Nobody is left who could be told.
        if self._owns_process_group and dist.is_initialized():
            dist.destroy_process_group()
        self._process_group = None

    def _await_others(self) -> None:
        """If they meet in a store of this process's, let the others leave before."""
        end = monotonic() + _LEAVE_S
        for rank in range(self.ranks) if self._serves else ():
            while not self._store.check([f"failed/{rank}"]) and monotonic() < end:
                if self._heartbeat.is_lost(rank):
                    break
                sleep(10 * _POLL_S)

    def _meet(self, own: Identity) -> list[Identity]:
        """Tell who this is and learn who the others are."""
        end = monotonic() + float(os.environ.get("MPKIR_JOIN_SECONDS") or JOIN_S)
        keys = [f"member/{rank}" for rank in range(self.ranks)]
        self._store.set(keys[self.rank], own.to_bytes())
        while missing := [rank for rank, key in enumerate(keys) if not self._store.check([key])]:
            if monotonic() > end:
                raise MpkirError(
                    f"{_listed(missing)} of {self.ranks} did not come",
                    hint="start all ranks; $MPKIR_JOIN_SECONDS gives slow ones more time",
                )
            sleep(10 * _POLL_S)
        return [Identity.from_bytes(self._store.get(key)) for key in keys]

    def _loss_of(self, rank: int) -> MpkirError | None:
        """Why a rank is not to be waited for; None if it is."""
        if self._heartbeat.is_lost(rank):
            # What it had to say goes before that it has ended.
            return self._failure_of(rank) or self._died(rank)
        return self._failure_of(rank)

    def _guilty(self, error: MpkirError) -> MpkirError | None:
        """What a rank has done that made a launch end; None if nothing is known."""
        others = [rank for rank in range(self.ranks) if rank != self.rank]
        try:
            for rank in others:
                if self._heartbeat.is_lost(rank):
                    return self._loss_of(rank)
            for rank in others:
                if self._heartbeat.launches_of(rank) < self._heartbeat.launches:
                    return self._failure_of(rank) or MpkirError(
                        f"{self.members[rank]} did not begin launch {self._heartbeat.launches}, "
                        "in which the others wait for it",
                        hint="all ranks make the same calls",
                    )
            for rank in others:
                if failed := self._failure_of(rank):
                    return failed
        except RuntimeError:
            return self._store_lost()
        return None

    def _failure_of(self, rank: int) -> MpkirError | None:
        if not self._store.check([f"failed/{rank}"]):
            return None
        why = self._store.get(f"failed/{rank}").decode()
        return MpkirError(f"{self.members[rank]} does not go on: {why}")

    def _died(self, rank: int) -> MpkirError:
        return MpkirError(
            f"{self.members[rank]} has died", hint="see what it said last, and start all again"
        )

    def _store_lost(self) -> MpkirError:
        self._broken = MpkirError(
            "the process that started the ranks, or rank 0, has died: its store does not answer",
            hint="see what it said last, and start all again",
        )
        return self._broken


@contextmanager
def telling(group: Group | None) -> Iterator[None]:
    """Tell the other ranks of an error, so that they need not wait for this one."""
    try:
        yield
    except MpkirError as error:
        if group is None:
            raise
        raise group.fail(error)


def _store(rank: int) -> dist.Store:
    """A connection to the store that torchrun, or rank 0, serves."""
    address, port = os.environ.get("MASTER_ADDR"), _number("MASTER_PORT")
    if not address or not port:
        _refuse_environment("MASTER_ADDR and MASTER_PORT are not set")
    serves = _serves_store(rank)
    if not serves:
        _await_server(address, port)
    try:
        store = dist.TCPStore(
            address, port, None, serves, _STORE_S, wait_for_workers=False, multi_tenant=True
        )
    except RuntimeError as error:
        first = str(error).partition("\n")[0]
        raise MpkirError(
            f"rank {rank} cannot {'serve' if serves else 'reach'} the ranks' store ({first})",
            where=f"{address}:{port}",
        ) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"mpkir/{attempt}", store)


def _serves_store(rank: int) -> bool:
    """Whether the ranks meet in a store of this process's: nobody started them who has one."""
    return rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


def _await_server(address: str, port: int) -> None:
    """Return when somebody listens. torch would wait as well, and print a stack trace."""
    end = monotonic() + float(os.environ.get("MPKIR_JOIN_SECONDS") or JOIN_S)
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
            sleep(20 * _POLL_S)


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if not text:
        return None
    if not text.isdecimal():
        _refuse_environment(f"{name} is {text!r}, expected a number")
    return int(text)


def _refuse_environment(what: str) -> NoReturn:
    raise MpkirError(what, where="environment", hint="start the ranks with torchrun")


def _listed(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
