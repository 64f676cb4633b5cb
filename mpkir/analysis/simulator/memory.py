"""The memory that all workers share, and the clock.

With N bytes asked for and not landed the memory gives B N / (N^3 + (B L)^3)^(1/3), where B is its
bandwidth and L its latency, which joins Little's law for few bytes with B for many; each stream
gets its part of N.
"""

from __future__ import annotations

from enum import Enum
from heapq import heappop, heappush
from typing import NamedTuple

from mpkir.analysis.plan import Plan
from mpkir.analysis.task_times import KILO


class Reads(Enum):
    """What a worker reads."""

    STAGES = "stages"
    """Its loader, a chunk of stages."""
    OWN = "own"
    """A task, past the ring, which waits for it."""
    BESIDE = "beside"
    """A task, which works meanwhile."""


class Stream(NamedTuple):
    """What a worker reads in one go."""

    worker: int
    size: float
    """Bytes."""
    asked: float
    """Bytes in flight, which the stream's part of the memory goes by."""
    reads: Reads


class Memory:
    """Streams by the virtual time at which they end, and a heap of those that begin later. Virtual
    time goes by what the memory gives to each byte in flight."""

    def __init__(self, plan: Plan) -> None:
        self.time, self.virtual, self.asked, self.rate = 0.0, 0.0, 0.0, 0.0
        self.slow = 1.0
        """How much longer the memory takes to answer than when it is idle."""
        self.streams: list[tuple[float, int, Stream]] = []
        self.later: list[tuple[float, int, Stream]] = []
        self.sequence = 0
        timing = plan.machine.timing
        self.bandwidth = plan.machine.memory_bandwidth * timing.reached * KILO
        self.idle_bytes = self.bandwidth * timing.dram_latency
        self.knee = self.idle_bytes**3
        self.least_rate = self.bandwidth / (2 * self.idle_bytes)
        # What a task that reads past the ring has asked for and not got: a stage, or what keeps the
        # memory just busy where there is no ring.
        has_ring = plan.machine.streams
        self.own_reads = plan.ring.slot_bytes if has_ring else self.idle_bytes / plan.workers

    def read(self, time: float, worker: int, size: float, asked: float = 0.0) -> None:
        """A task reads so many bytes past the ring, from then on, or from now if that is past,
        with so many `asked` for at once, or as many as usual."""
        self.begin(time, Stream(worker, size, asked or min(size, self.own_reads), Reads.OWN))

    def read_beside(self, time: float, worker: int, size: float, asked: float) -> None:
        """The same, beside what the task does."""
        self.begin(time, Stream(worker, size, asked, Reads.BESIDE))

    def load(self, time: float, worker: int, size: float, asked: float) -> None:
        """A loader reads a chunk from then on, or from now if that is past."""
        self.begin(time, Stream(worker, size, asked, Reads.STAGES))

    def guess(self, size: float) -> float:
        """How long a task's reading past the ring takes if the memory goes on as now."""
        return size / (self.own_reads * max(self.rate, self.least_rate))

    def next_landed(self) -> Stream | None:
        """Let the memory work until the next stream has ended; None if there is none."""
        streams, later = self.streams, self.later
        while streams or later:
            ends = float("inf")
            if streams:
                ends = self.time + max(0.0, streams[0][0] - self.virtual) / self.rate
            if later and later[0][0] <= ends:
                time, _, stream = heappop(later)
                self.move(time)
                self.begin_now(stream)
            else:
                self.move(ends)
                _, _, stream = heappop(streams)
                self.ask(-stream.asked)
                return stream
        return None

    def begin(self, time: float, stream: Stream) -> None:
        if time > self.time:
            self.sequence += 1
            heappush(self.later, (time, self.sequence, stream))
        else:
            self.begin_now(stream)

    def begin_now(self, stream: Stream) -> None:
        self.sequence += 1
        ends = self.virtual + stream.size / stream.asked
        heappush(self.streams, (ends, self.sequence, stream))
        self.ask(stream.asked)

    def move(self, time: float) -> None:
        """Let the memory work until then."""
        if time > self.time:
            self.virtual += (time - self.time) * self.rate
            self.time = time

    def ask(self, size: float) -> None:
        """So many bytes more (or fewer) are in flight."""
        self.asked = max(0.0, self.asked + size) if self.streams or size > 0 else 0.0
        in_all = (self.asked**3 + self.knee) ** (1 / 3)
        self.rate = self.bandwidth / in_all
        self.slow = in_all / self.idle_bytes
