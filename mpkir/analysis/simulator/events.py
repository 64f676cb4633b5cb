"""When counters fire, and who waits for them.

The hop of a counter of flags is that of a flag, of an exchange buffer that of a peer. All ranks are
taken to run alike, so one of them is played.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpkir.analysis.exchange_times import flag_time
from mpkir.analysis.plan import Plan
from mpkir.dialects import event


class Events:
    """The counters of all steps. A counter's place is its step's times their number plus its own
    number; tasks are numbered over all steps in the same way."""

    def __init__(self, plan: Plan, arrivals: list[int], steps: int) -> None:
        self.count = len(arrivals)
        self.fired = [-1.0] * (steps * self.count)
        """-1 where some have not arrived."""
        self.last_signaller = [-1] * (steps * self.count)
        self._missing: list[int] = arrivals * steps
        self._arrived: list[list[tuple[float, int]]] = [[] for _ in range(steps * self.count)]
        self._latest = [0.0] * (steps * self.count)
        """The last end of a task that has raised a counter of flags."""
        self._blocked: dict[int, list[int]] = {}
        self._arrival = plan.machine.timing.arrival
        hops = plan.machine.hops
        hop = {
            event.Handoff.LOCAL: hops.local,
            event.Handoff.COUNTER: hops.counter,
            event.Handoff.FLAG: hops.flag,
            event.Handoff.PEER: hops.peer,
        }
        self.hop = [hop[handoff] for handoff in plan.graph.handoffs]
        """From each counter's firing to its being seen."""
        self.hop += [
            flag_time(flag, plan.ranks, plan.machine)
            for flag in plan.graph.flags
            for _ in range(flag.groups.count)
        ]
        fenced = (event.Handoff.COUNTER, event.Handoff.PEER)
        self.fences = [handoff in fenced for handoff in plan.graph.handoffs]
        """Whether a signal of the graph's counter needs a fence."""

    def block(self, worker: int, key: int) -> None:
        """A worker can not be played on before that counter has fired."""
        self._blocked.setdefault(key, []).append(worker)

    def let_go(self, key: int) -> Sequence[int]:
        """The workers that were blocked by a counter, which has fired."""
        return self._blocked.pop(key, ())

    def mark(self, key: int, task: int, end: float) -> bool:
        """A task writes its part of what is looked for; whether that was the last part."""
        self._missing[key] -= 1
        if end >= self._latest[key]:
            self._latest[key], self.last_signaller[key] = end, task
        if not self._missing[key]:
            self.fired[key] = self._latest[key]
        return not self._missing[key]

    def signal(self, key: int, task: int, end: float, amount: int) -> bool:
        """A task raises a counter by so much; whether that was the last arrival."""
        arrived = self._arrived[key]
        arrived.append((end, task))
        self._missing[key] -= amount
        if self._missing[key]:
            return False
        arrived.sort()
        fired = 0.0
        for time, _ in arrived:
            fired = (time if time > fired else fired) + self._arrival
        self.fired[key] = fired
        self.last_signaller[key] = arrived[-1][1]
        self._arrived[key] = []
        return True
