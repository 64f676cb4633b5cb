"""Where one worker stands: its compute warps, its loader, its publisher."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from mpkir.analysis.task_times import KILO
from mpkir.machine import Timing


@dataclass(eq=False)
class Worker:
    """Times are of its compute warps unless they say otherwise."""

    free: int
    """Slots of the ring that nobody has asked to fill."""
    place: int = 0
    """Tasks done, over all steps."""
    begun: bool = False
    """The present task has started."""
    now: float = 0.0
    ready: float = 0.0
    """The dispatcher has seen the events of all tasks up to the present one."""
    run: tuple[int, int] = (-1, -1)
    """Step and family of the run of streaming tasks under way."""
    run_ready: float = 0.0
    """What `ready` was at its start."""
    published: float = 0.0
    chunk: int = 0
    """Of the present task, the next to multiply."""
    cold: float = 0.0
    """Fetching instructions, spread over the present task's chunks."""
    starved: float = 0.0
    waiting: bool = False
    """For weights to land or for what its task reads itself."""
    asked: float = 0.0
    """Bytes from DRAM that it has asked for before its present task begins."""
    reading: int = 0
    """How much of what its task reads itself has not come."""
    reads_done: float = 0.0
    """When the last of that came."""
    lead: float | None = None
    """What the start of a run of streaming tasks takes once its input has come; None behind it."""
    landed: list[float] = field(default_factory=list[float])
    used: int = 0
    """Chunks multiplied, over all steps."""
    released: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    """When ring slots were given back, and how many."""
    loading: int = 0
    """The chunk to load next, over all steps."""
    freed: int = 0
    """Entries of `released` that the loader has seen."""
    blocked: bool = False
    """The loader waits for slots."""
    loader_time: float = 0.0
    code: OrderedDict[tuple[object, ...], float] = field(
        default_factory=OrderedDict[tuple[object, ...], float]
    )
    """Bodies whose instructions are at hand, the one used last at the end."""
    code_bytes: float = 0.0

    def take_slots(self, count: int) -> bool:
        """The loader's taking slots of the ring, as they are given back; False if too few are."""
        while self.free < count:
            if self.freed == len(self.released):
                self.blocked = True
                return False
            self.loader_time, slots = self.released[self.freed]
            self.freed += 1
            self.free += slots
        self.free -= count
        return True

    def fetch_code(self, body: tuple[object, ...], size: float, timing: Timing) -> float:
        """How long a body's instructions take to come; none if they are at hand."""
        if body in self.code:
            self.code.move_to_end(body)
            return 0.0
        self.code[body] = size
        self.code_bytes += size
        while self.code_bytes > timing.code_cache and len(self.code) > 1:
            self.code_bytes -= self.code.popitem(last=False)[1]
        return size / (timing.code_bandwidth * KILO)
