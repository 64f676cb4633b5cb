"""A schedule as the simulator plays it: who runs what, and which waits and signals are executed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xdsl.dialects.builtin import IntegerAttr, ModuleOp

from mpkir.analysis.cost import FamilyCost, cost_of
from mpkir.analysis.execution import Listed, executed_of
from mpkir.analysis.families import WORKERS, Ints
from mpkir.analysis.task_graph import Edge, TaskGraph, task_graph_of
from mpkir.dialects import task
from mpkir.dialects.mesh import ranks_of
from mpkir.errors import MpkirError
from mpkir.machine import Machine, Ring


@dataclass(frozen=True, eq=False)
class Executed:
    """What each task does about events; [tasks]."""

    wait: Ints
    """Counter, or -1."""
    lag: Ints
    signal: Ints
    """Counter, or -1."""
    amount: Ints
    """By how much."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What is played. Arrays are [tasks] in linear order."""

    graph: TaskGraph
    costs: tuple[FamilyCost, ...]
    """Of each family."""
    machine: Machine
    ring: Ring
    workers: int
    worker: Ints
    """-1 for a task that is given out while the program runs."""
    slot: Ints
    """Place in the worker's list."""
    executed: Executed
    ranks: int
    """How many run the program together, all alike."""


def plan_of(module: ModuleOp, machine: Machine, position: int | None = None) -> Plan:
    """Read a scheduled module. `position`: the step's place in the sequence, which decides how much
    of the caches is read; None for full caches.

    Raises MpkirError if a task has no worker, or several waits or signals.
    """
    graph = task_graph_of(module)
    costs = tuple(cost_of(family, position) for family in graph.families)
    worker, slot = _places(graph)
    count = module.attributes.get(WORKERS)
    workers = count.value.data if isinstance(count, IntegerAttr) else machine.workers
    executed = executed_waits_and_signals(graph, worker, slot)
    ring = ring_of(module, machine)
    return Plan(graph, costs, machine, ring, workers, worker, slot, executed, ranks_of(module))


def ring_of(module: ModuleOp, machine: Machine) -> Ring:
    """The module's ring, or the machine's."""
    for op in module.walk():
        if isinstance(op, task.RingOp):
            return Ring(op.slots.value.data, op.bytes.value.data, op.in_flight.value.data)
    return machine.ring


def _places(graph: TaskGraph) -> tuple[Ints, Ints]:
    workers: list[Ints] = [np.zeros(0, np.int64)]
    slots: list[Ints] = [np.zeros(0, np.int64)]
    for family in graph.families:
        op = family.op
        if "dynamic" in op.properties:
            workers.append(np.full(family.size, -1, np.int64))
            slots.append(np.arange(family.size, dtype=np.int64))
        elif op.workers is None or op.slots is None:
            raise MpkirError(
                "its tasks have no workers",
                where=f"@{family.name}",
                hint="run mpk-schedule-tasks before",
            )
        else:
            workers.append(np.array(op.workers.get_values(), np.int64))
            slots.append(np.array(op.slots.get_values(), np.int64))
    return np.concatenate(workers), np.concatenate(slots)


def executed_waits_and_signals(graph: TaskGraph, worker: Ints, slot: Ints) -> Executed:
    """Those that the runtime's table has. MpkirError for a task with several of either."""
    wait, lag = _single(graph, graph.waits, "wait for")
    signal, _ = _single(graph, graph.signals, "signal")
    order = np.lexsort((slot, np.where(worker < 0, np.iinfo(np.int64).max, worker)))
    listed = Listed(worker[order], wait[order], lag[order], signal[order], graph.peers)
    found = executed_of(listed)
    waits, amount = np.zeros(len(wait), np.bool_), np.zeros(len(wait), np.int64)
    waits[order], amount[order] = found.waits, found.amounts
    return Executed(np.where(waits, wait, -1), lag, np.where(amount > 0, signal, -1), amount)


def _single(graph: TaskGraph, edges: tuple[tuple[Edge, ...], ...], what: str) -> tuple[Ints, Ints]:
    """Counter (or -1) and lag of the one edge of every task."""
    counters: list[Ints] = [np.zeros(0, np.int64)]
    lags: list[Ints] = [np.zeros(0, np.int64)]
    for family, each in zip(graph.families, edges, strict=True):
        if len(each) > 1:
            raise MpkirError(
                f"tasks {what} {len(each)} events",
                where=f"@{family.name}",
                hint="run mpk-normalize-events before",
            )
        edge = each[0] if each else Edge(np.full(family.size, -1, np.int64), 0)
        counters.append(edge.counter)
        lags.append(np.full(family.size, edge.lag, np.int64))
    return np.concatenate(counters), np.concatenate(lags)
