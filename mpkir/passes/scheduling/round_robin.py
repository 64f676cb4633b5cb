"""round-robin: the next task goes to the next worker, on over operators."""

from __future__ import annotations

import numpy as np

from mpkir.analysis.families import Family
from mpkir.dialects.task import BufferKind
from mpkir.passes.scheduling.policy import Placement, Policy, Problem


def _streams_weights(family: Family) -> bool:
    """Whether the tasks cut a weight into boxes: then their number is proportional to bytes."""
    return any(
        access.buffer.kind.data is BufferKind.WEIGHT and access.box.shape != access.shape
        for access in family.accesses
    )


class RoundRobin(Policy):
    """Task i of a family goes i workers further than its first, which follows the last task of the
    family before; all in linear order.

    Families that stream weights and those that do not take turns by themselves, so that small tasks
    in between do not disturb the balance of bytes.
    """

    def schedule(self, problem: Problem) -> list[Placement]:
        turn: dict[bool, int] = {}
        placed: list[Placement] = []
        for number, family in enumerate(problem.graph.families):
            kind = _streams_weights(family)
            first = turn.get(kind, 0)
            workers = (first + np.arange(family.size)) % problem.workers
            turn[kind] = (first + family.size) % problem.workers
            placed.append(Placement(workers, np.full(family.size, number, np.int64)))
        return placed
