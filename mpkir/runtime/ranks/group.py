"""The ranks that run one program: how they find each other, wait for each other, and tell who is
missing.

They meet in a store of torch.distributed's, under the environment that `torchrun` sets; `mpk`
starts ranks with the same. Nothing here waits for a rank that is gone: whoever waits looks at the
others meanwhile.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic, sleep

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store

from mpkir.errors import MpkirError
from mpkir.runtime.manifest import Place
from mpkir.runtime.ranks.environment import join_seconds, number_of, open_store, serves_store
from mpkir.runtime.ranks.heartbeat import Heartbeat
from mpkir.runtime.ranks.identity import Identity

LAUNCH_S = 6.0
"""Seconds without progress after which a launch is ended: the others may begin theirs later."""

_LEAVE_S = 3.0
"""Seconds for which rank 0 serves the others after it has ended itself."""
_POLL_S = 0.002
_SLOW_POLL_S = 0.02
_LONG_POLL_S = 0.05
_START = "start the ranks with torchrun --nproc-per-node {}, or let `mpk generate --tp {}` do it"


class Group:
    """This process among the ranks of a program.

    rank, ranks  the own number, and how many there are
    members      who they are, in their order
    """

    def __init__(self, store: Store, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks
        self._store, self._serves = store, serves_store(rank)
        self._round = 0
        self._broken: MpkirError | None = None
        self._abort: Callable[[], None] | None = None
        self._process_group: dist.ProcessGroup | None = None
        self._owns_process_group = False
        self.members: Sequence[Identity] = ()
        try:
            self.members = self._meet(Identity.own(rank))
            own = self.members[rank]
            self._heartbeat = Heartbeat(store, self.members, own, self._end_launch)
        except RuntimeError as error:
            raise self._store_lost() from error
        atexit.register(self.leave)

    @staticmethod
    def join(ranks: int) -> Group:
        """Meet the other ranks under torchrun's environment. Raises MpkirError if there are not
        `ranks` of them, or one does not come."""
        rank, world = number_of("RANK"), number_of("WORLD_SIZE")
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
        return Group(open_store(rank), rank, ranks)

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
        """The same ranks as torch.distributed knows them, made at first use, which all have to come
        to."""
        if self._process_group is None:
            if not dist.is_initialized():
                self._owns_process_group = True
                if self.is_one_host:  # which may have no network
                    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
                dist.init_process_group(
                    "gloo",
                    store=PrefixStore("gloo", self._store),
                    rank=self.rank,
                    world_size=self.ranks,
                )
                self.barrier()  # A rank that leaves would end others' connecting.
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
            # Any bytes will do, whatever the signature says.
            self._store.set(keys[self.rank], value)  # pyright: ignore[reportArgumentType]
            if self._round > 2:  # Whoever is in this round has read all of the last but one.
                self._store.delete_key(f"gather/{self._round - 2}/{self.rank}")
            begun = monotonic()
            for rank, key in enumerate(keys):
                while not self._store.check([key]):
                    lost = self._loss_of(rank)
                    if lost is not None and not self._store.check([key]):
                        raise self.fail(lost)
                    sleep(_pause(monotonic() - begun))
            return [self._store.get(key) for key in keys]
        except RuntimeError as error:
            raise self._store_lost() from error

    def barrier(self) -> None:
        """Wait until all ranks have come here."""
        self.gather(b"")

    @contextmanager
    def launching(self, abort: Callable[[], None] | None = None) -> Iterator[None]:
        """Around a launch: ranks that wait in theirs know of it.

        abort: ends it from another thread, when a rank has failed or died; without it, the launch
        ends where nothing goes on. Raises MpkirError where ranks have parted, and the error of the
        rank that is to blame in place of the launch's.
        """
        self.check()
        self._heartbeat.launches += 1
        self._abort = abort
        try:
            yield
        except MpkirError as error:
            raise self.blame(error) from error
        finally:
            self._abort = None

    def _end_launch(self) -> None:
        abort = self._abort
        if abort is not None:
            abort()

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
            self._store.set(f"left/{self.rank}", "")
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
            while not self._store.check([f"left/{rank}"]) and monotonic() < end:
                if self._heartbeat.is_lost(rank):
                    break
                sleep(_SLOW_POLL_S)

    def _meet(self, own: Identity) -> list[Identity]:
        """Tell who this is and learn who the others are."""
        end = monotonic() + join_seconds()
        keys = [f"member/{rank}" for rank in range(self.ranks)]
        self._store.set(keys[self.rank], own.to_text())
        while missing := [rank for rank, key in enumerate(keys) if not self._store.check([key])]:
            if monotonic() > end:
                raise MpkirError(
                    f"{_listed(missing)} of {self.ranks} did not come",
                    hint="start all ranks; $MPKIR_JOIN_SECONDS gives slow ones more time",
                )
            sleep(_SLOW_POLL_S)
        return [Identity.from_text(self._store.get(key)) for key in keys]

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
        if self._store.check([f"failed/{rank}"]):
            why = self._store.get(f"failed/{rank}").decode()
        elif self._store.check([f"left/{rank}"]):
            why = "it has ended"
        else:
            return None
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


def _pause(waited: float) -> float:
    """Seconds until the next look at the store. Whoever has waited for long waits for work, such as
    a compilation: looking often would take the cores that it needs, and find out little earlier."""
    return min(max(_POLL_S, waited / 16), _LONG_POLL_S)


def _listed(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
