"""round-robin: the next task goes to the next worker, on over operators."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np

from mpkir.analysis.families import Family, Ints
from mpkir.analysis.task_graph import TaskGraph
from mpkir.dialects.task import BufferKind
from mpkir.passes.scheduling.policy import Placement, Policy, Problem, topological

LONG = 8
"""Tasks of each worker from which on a family that streams weights has others run in its midst."""
BEHIND = 2
"""Tasks of each worker between what is computed there and who reads it: by then all workers have
come so far, and what they signalled has come."""


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
    in between do not disturb the balance of bytes. Where tasks without weights read what a long
    family that streams has computed long before its end, as parts of an argmax do, they run in its
    midst: weights come meanwhile, and at the end only the last few are left.
    """

    def schedule(self, problem: Problem) -> list[Placement]:
        turn: dict[bool, int] = {}
        workers: list[Ints] = []
        for family in problem.graph.families:
            kind = _streams_weights(family)
            first = turn.get(kind, 0)
            workers.append((first + np.arange(family.size)) % problem.workers)
            turn[kind] = (first + family.size) % problem.workers
        ranks = _ranks(problem.graph, problem.workers)
        return [Placement(*each) for each in zip(workers, ranks, strict=True)]


def _ranks(graph: TaskGraph, workers: int) -> list[Ints]:
    """A family's tasks behind those of the families before, those of each worker in turn; readers
    of a long one in its midst."""
    rounds = [ceil(family.size / workers) for family in graph.families]
    span = max(rounds, default=0) + BEHIND + 1
    ranks = [
        number * span + np.arange(f.size) // workers for number, f in enumerate(graph.families)
    ]
    is_long = [
        count >= LONG and _streams_weights(family)
        for count, family in zip(rounds, graph.families, strict=True)
    ]
    early = [
        number
        for number, family in enumerate(graph.families)
        if not _streams_weights(family) and _reads_long(graph, number, is_long)
    ]
    if early:
        least = topological(
            graph, [np.zeros_like(r) if n in early else r for n, r in enumerate(ranks)]
        )
        for number in early:
            ranks[number] = np.minimum(ranks[number], least[number] + BEHIND)
    return ranks


def _reads_long(graph: TaskGraph, number: int, is_long: Sequence[bool]) -> bool:
    """Whether a family waits for one long family and for nothing else of this step."""
    awaited = [edge.counter for edge in graph.waits[number] if not edge.lag]
    if not awaited or any(flag.later.number == number for flag in graph.flags):
        return False
    counters = np.concatenate(awaited)
    sources = [
        source
        for source, edges in enumerate(graph.signals)
        if any(np.isin(edge.counter, counters).any() for edge in edges)
    ]
    return len(sources) == 1 and is_long[sources[0]]
