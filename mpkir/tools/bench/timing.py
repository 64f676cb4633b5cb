"""Systems timed in turns, so that what else happens on the machine hits all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mpkir.errors import MpkirError
from mpkir.tools.bench.systems import System

WARM = 2
"""Runs of each system before those that count."""


@dataclass(frozen=True)
class Times:
    """Milliseconds of a step, one figure for each run."""

    each: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.each)

    def record(self) -> dict[str, float | int]:
        """As results hold them."""
        return {
            "ms": round(self.median, 5),
            "ms_min": round(min(self.each), 5),
            "ms_max": round(max(self.each), 5),
            "runs": len(self.each),
        }


def time_in_turns(
    systems: Sequence[System],
    position: int,
    steps: int,
    runs: int,
    on_turn: Callable[[int], None] = lambda turn: None,
) -> dict[str, Times | MpkirError]:
    """Times of all systems by label; the error of one that failed, which takes no more turns.

    In each turn each system makes `steps` steps from `position` on.
    """
    times: dict[str, list[float]] = {system.label: [] for system in systems}
    failed: dict[str, MpkirError] = {}
    for system in systems:
        system.prepare(position)
    for turn in range(WARM + runs):
        on_turn(turn)
        for system in systems:
            if system.label in failed:
                continue
            try:
                elapsed = system.run(position, steps)
            except MpkirError as error:
                failed[system.label] = error
                continue
            if turn >= WARM:
                times[system.label].append(elapsed)
    return {
        label: failed[label] if label in failed else Times(tuple(each))
        for label, each in times.items()
    }
