"""Signs of life: each rank tells the others through the store that it goes on, and how far."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import monotonic

from torch._C._distributed_c10d import Store

from mpkir.runtime.ranks.identity import Identity

PERIOD_S = 0.25
"""Seconds between two beats."""
SILENT_S = 4.0
"""Seconds without a beat after which a rank of another host counts as lost."""


class Heartbeat:
    """A thread that beats for the own rank and listens to the others, by a connection of its own.

    launches   how many launches this rank has begun; whoever begins one counts it
    on_loss    called once when a rank has failed or died, by the thread
    """

    def __init__(
        self,
        store: Store,
        ranks: Sequence[Identity],
        own: Identity,
        on_loss: Callable[[], None],
    ) -> None:
        self._store: Store = store.clone()  # pyright: ignore[reportAttributeAccessIssue]
        self._ranks, self._own = ranks, own
        self._on_loss = on_loss
        self._is_told = False
        self.launches = 0
        self.store_lost = False
        self._heard = [b""] * len(ranks)
        self._changed = [monotonic()] * len(ranks)
        self._rounds = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mpkir-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(PERIOD_S * 8)

    def await_news(self) -> None:
        """Return when all that was beaten before the call has been heard."""
        end, wanted = monotonic() + 8 * PERIOD_S, self._rounds + 3
        while self._rounds < wanted and self._thread.is_alive() and monotonic() < end:
            self._stop.wait(PERIOD_S / 4)

    def launches_of(self, rank: int) -> int:
        """How many launches a rank has told of."""
        return int(self._heard[rank].partition(b" ")[2] or 0)

    def is_lost(self, rank: int) -> bool:
        """Whether a rank's process has ended, or could not be heard for too long.

        One that can be looked at is lost only if it has ended: it may be busy.
        """
        there = self._ranks[rank]
        if there.machine and there.machine == self._own.machine:
            return there.is_gone(self._own)
        return monotonic() - self._changed[rank] > SILENT_S

    def _run(self) -> None:
        keys = [f"beat/{identity.rank}" for identity in self._ranks]
        beats = 0
        try:
            while not self._stop.wait(PERIOD_S if beats else 0):
                beats += 1
                self._store.set(keys[self._own.rank], f"{beats} {self.launches}")
                for rank, key in enumerate(keys):
                    if self._store.check([key]):
                        self._hear(rank, self._store.get(key))
                self._rounds += 1
                if not self._is_told and any(map(self._has_failed, self._ranks)):
                    self._is_told = True
                    self._on_loss()
        except RuntimeError:
            self.store_lost = True

    def _has_failed(self, identity: Identity) -> bool:
        """Whether a rank ended otherwise than by leaving the others."""
        rank = identity.rank
        if rank == self._own.rank:
            return False
        if self._store.check([f"failed/{rank}"]):
            return True
        return self.is_lost(rank) and not self._store.check([f"left/{rank}"])

    def _hear(self, rank: int, beat: bytes) -> None:
        if beat != self._heard[rank]:
            self._heard[rank], self._changed[rank] = beat, monotonic()
