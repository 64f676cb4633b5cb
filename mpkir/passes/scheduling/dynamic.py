"""dynamic: whatever can be given out while the program runs."""

from __future__ import annotations

from collections.abc import Sequence

from mpkir.passes.scheduling.policy import Dynamic, Placement, Policy, Problem
from mpkir.passes.scheduling.round_robin import RoundRobin


def releasable(problem: Problem, family: int) -> bool:
    """Whether an event of the same step releases a family's tasks, so that whoever completes it
    can give them out."""
    return any(edge.lag == 0 for edge in problem.graph.waits[family])


class DynamicPolicy(Policy):
    """Every family that waits for an event of its own step is given out when that event fires.

    The others, which begin a step, have places, dealt in turn.
    """

    def schedule(self, problem: Problem) -> Sequence[Placement | Dynamic]:
        return [
            Dynamic() if releasable(problem, number) else placed
            for number, placed in enumerate(RoundRobin().schedule(problem))
        ]
