"""schedule-tasks: a worker and a place in its list for every task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import DenseArrayBase, IntegerAttr, ModuleOp, i64
from xdsl.passes import ModulePass

from mpkir.analysis.families import WORKERS, Family, Ints, families_of
from mpkir.dialects.task import BufferKind
from mpkir.errors import MpkirError


def _streams_weights(family: Family) -> bool:
    """Whether the tasks cut a weight into boxes: then their number is proportional to bytes."""
    return any(
        access.buffer.kind.data is BufferKind.WEIGHT and access.box.shape != access.shape
        for access in family.accesses
    )


def _round_robin(families: tuple[Family, ...], workers: int) -> list[Ints]:
    """Task i of a family goes i workers further than its first, which follows the last task of the
    family before.

    Families that stream weights and those that do not take turns by themselves, so that small tasks
    in between do not disturb the balance of bytes.
    """
    turn = {False: 0, True: 0}
    placed: list[Ints] = []
    for family in families:
        kind = _streams_weights(family)
        placed.append((turn[kind] + np.arange(family.size)) % workers)
        turn[kind] = (turn[kind] + family.size) % workers
    return placed


_POLICIES = {"round-robin": _round_robin}


def slots_of(placed: list[Ints], workers: int) -> list[Ints]:
    """Places in the workers' lists when every worker runs its tasks in linear order."""
    filled = np.zeros(workers, np.int64)
    slots: list[Ints] = []
    for family_workers in placed:
        order = np.argsort(family_workers, kind="stable")
        counts = np.bincount(family_workers, minlength=workers)
        first = np.cumsum(counts) - counts
        slot = np.empty_like(family_workers)
        slot[order] = np.arange(len(order)) - first[family_workers[order]]
        slots.append(slot + filled[family_workers])
        filled += counts
    return slots


@dataclass(frozen=True)
class ScheduleTasksPass(ModulePass):
    """Give every task a worker and a place in that worker's list.

    Every worker runs its tasks in the linear order, in which each task stands after all that it
    waits for: so the least task in that order that has not run can always run, and nothing blocks
    for ever. Policies: `round-robin`.
    """

    name = "mpk-schedule-tasks"

    workers: int = 132
    policy: str = "round-robin"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if self.policy not in _POLICIES:
            raise MpkirError(
                f"no scheduling policy is named {self.policy!r}",
                where=self.name,
                hint=f"choose one of {', '.join(_POLICIES)}",
            )
        if self.workers < 1:
            raise MpkirError(f"a schedule for {self.workers} workers", where=self.name)
        families = families_of(op)
        placed = _POLICIES[self.policy](families, self.workers)
        for family, workers, slots in zip(
            families, placed, slots_of(placed, self.workers), strict=True
        ):
            family.op.workers = DenseArrayBase.from_list(i64, workers.tolist())
            family.op.slots = DenseArrayBase.from_list(i64, slots.tolist())
        op.attributes[WORKERS] = IntegerAttr(self.workers, i64)
