"""The chain of tasks that a played step took its time by, found from its end."""

from __future__ import annotations

from dataclasses import dataclass

from mpkir.analysis.operators import operator_of
from mpkir.analysis.simulator import Cause, Simulation


@dataclass(frozen=True)
class Link:
    """One task on the path; microseconds. The times of all links add up to the step's."""

    task: int
    time: float
    """From the end of what it waited for to the begin of what waited for it."""
    handoff: float
    """Of that, until it had started."""
    starved: float
    """Of that, waiting for weights."""


@dataclass
class OperatorOnPath:
    """All links of one operator's tasks."""

    tasks: int = 0
    time: float = 0.0
    handoff: float = 0.0
    starved: float = 0.0


def critical_path(simulation: Simulation) -> list[Link]:
    """The path from the step's begin to its end."""
    links: list[Link] = []
    if not len(simulation.end):
        return links
    task = int(simulation.end.argmax())
    until = float(simulation.end[task])
    while task >= 0:
        before = int(simulation.before[task])
        start = float(simulation.start[task])
        begin = start
        if before < 0:
            begin = 0.0
        elif simulation.cause[task] == Cause.EVENT:
            begin = float(simulation.end[before])
        starved = min(float(simulation.starved[task]), until - start)
        links.append(Link(task, until - begin, max(0.0, start - begin), max(0.0, starved)))
        task, until = before, begin
    links.reverse()
    return links


def path_by_operator(simulation: Simulation) -> dict[str, OperatorOnPath]:
    """The path's links, summed over equal operators, in order of first appearance."""
    graph = simulation.plan.graph
    result: dict[str, OperatorOnPath] = {}
    for link in critical_path(simulation):
        each = result.setdefault(operator_of(graph.family_of(link.task)), OperatorOnPath())
        each.tasks += 1
        each.time += link.time
        each.handoff += link.handoff
        each.starved += link.starved
    return result
