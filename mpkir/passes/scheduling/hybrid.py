"""hybrid: given out while the program runs is only what takes as long as the data decides.

The paper's mixture of just-in-time and ahead-of-time launch. What streams weights has
a place, so that its worker can fetch them before the event fires; its duration is known anyway.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpkir.analysis.run_time import duration_depends_on_data
from mpkir.passes.scheduling.dynamic import releasable
from mpkir.passes.scheduling.policy import Dynamic, Placement, Policy, Problem
from mpkir.passes.scheduling.round_robin import RoundRobin


class Hybrid(Policy):
    """Dynamic are families of several tasks whose duration depends on data; a single task leaves
    nothing to balance. The rest is dealt in turn."""

    def schedule(self, problem: Problem) -> Sequence[Placement | Dynamic]:
        return [
            Dynamic()
            if family.size > 1 and releasable(problem, number) and duration_depends_on_data(family)
            else placed
            for number, (family, placed) in enumerate(
                zip(problem.graph.families, RoundRobin().schedule(problem), strict=True)
            )
        ]
