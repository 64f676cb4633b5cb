"""The interface of scheduling policies: where each task runs, and in what order.

A policy is a class in a universe's `all_schedulers`, by name; `mpk-schedule-tasks{policy=name}`
makes one and asks it. It cannot make a schedule that deadlocks: it gives ranks, and the order of
every worker's list comes from ranks raised above those of all tasks waited for (`topological`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpkir.analysis.cost import FamilyCost
from mpkir.analysis.families import Ints
from mpkir.analysis.flag_edges import FlagEdge
from mpkir.analysis.task_graph import TaskGraph
from mpkir.errors import MpkirError
from mpkir.machine import Machine
from mpkir.registry import named


@dataclass(frozen=True, eq=False)
class Problem:
    """What a policy decides by."""

    graph: TaskGraph
    """Families in linear order, and events."""
    costs: tuple[FamilyCost, ...]
    """Of each family."""
    machine: Machine
    workers: int


@dataclass(frozen=True, eq=False)
class Placement:
    """A family whose tasks have a worker and a place before the program runs; [tasks] each."""

    workers: Ints
    ranks: Ints
    """A worker runs its tasks by rank; of equal ranks, first the one earlier in linear order."""


@dataclass(frozen=True)
class Dynamic:
    """A family whose tasks are given out while the program runs, when the event fires."""


class Policy(ABC):
    """A way to schedule."""

    @abstractmethod
    def schedule(self, problem: Problem) -> Sequence[Placement | Dynamic]:
        """One for each family, in their order."""


def policy_names() -> tuple[str, ...]:
    """The names of all policies of all universes."""
    return tuple(named("schedulers"))


def policy_named(name: str) -> Policy:
    """The policy of that name. Raises MpkirError if there is none."""
    loaders = named("schedulers")
    if name not in loaders:
        raise MpkirError(
            f"no scheduling policy is named {name!r}", hint=f"choose one of {', '.join(loaders)}"
        )
    return loaders[name]()()


def topological(graph: TaskGraph, ranks: Sequence[Ints | None]) -> list[Ints]:
    """The least ranks not below those given in which each task stands behind all it waits for.

    `ranks` has one array of [tasks] for each family, None for one without places (its tasks pass on
    what they wait for). Raises MpkirError if a family waits for a later one: the families are not
    in linear order.
    """
    missing = np.zeros(len(graph.arrivals), np.int64)
    for edges in graph.signals:
        for edge in edges:
            np.add.at(missing, edge.counter, 1)
    fired = np.full(len(graph.arrivals), np.iinfo(np.int64).min, np.int64)
    flags: list[list[FlagEdge]] = [[] for _ in graph.families]
    for flag in graph.flags:
        flags[flag.later.number].append(flag)
    result: list[Ints] = []
    for number, (family, given) in enumerate(zip(graph.families, ranks, strict=True)):
        lifted = np.zeros(family.size, np.int64) if given is None else given.astype(np.int64)
        for edge in graph.waits[number]:
            if edge.lag:
                continue
            if (missing[edge.counter] > 0).any():
                raise MpkirError(
                    "the family stands before tasks that it waits for",
                    where=f"@{family.name}",
                    hint="run mpk-linearize-tasks before",
                )
            np.maximum(lifted, fired[edge.counter] + 1, out=lifted)
        for flag in flags[number]:
            groups, written = flag.groups, np.full(flag.groups.count, -1, np.int64)
            before = result[flag.earlier.number][groups.source]
            np.maximum.at(written, groups.source_group, before)
            behind = written[groups.target_group] + 1
            lifted[groups.target] = np.maximum(lifted[groups.target], behind)
        for edge in graph.signals[number]:
            np.maximum.at(fired, edge.counter, lifted)
            np.subtract.at(missing, edge.counter, 1)
        result.append(lifted)
    return result
