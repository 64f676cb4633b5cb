"""Signs of life: each rank tells the others through the store that it goes on, and how far."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from time import monotonic

import torch.distributed as dist

from mpkir.runtime.ranks.identity import Identity

PERIOD_S = 0.25
"""Seconds between two beats."""
SILENT_S = 4.0
"""Seconds without a beat after which a rank of another host counts as lost."""


class Heartbeat:
    """A thread that beats for the own rank and listens to the others, by a connection of its own.

    launches   how many launches this rank has begun; whoever begins one counts it
    """

    def __init__(self, store: dist.Store, ranks: Sequence[Identity], own: Identity) -> None:
        self._store = store.clone()
        self._ranks, self._own = ranks, own
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
                self._store.set(keys[self._own.rank], b"%d %d" % (beats, self.launches))
                for rank, key in enumerate(keys):
                    if self._store.check([key]):
                        self._hear(rank, self._store.get(key))
                self._rounds += 1
        except RuntimeError:
            self.store_lost = True

    def _hear(self, rank: int, beat: bytes) -> None:
        if beat != self._heard[rank]:
            self._heard[rank], self._changed[rank] = beat, monotonic()
