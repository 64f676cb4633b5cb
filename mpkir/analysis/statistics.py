"""How big a module's task graph is, in the terms of the paper's Table 2 and a few more.

Fusion ratio: dependent pairs of tasks for each event, for the paper starts from one event a pair.
Linearization ratio: tasks named by the lists of those that each event releases, for each range of
consecutive tasks that says the same. (In the paper's rows it is tasks / events: there every task
waits for one event and every event's tasks are one range.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from xdsl.dialects import func
from xdsl.dialects.builtin import ModuleOp

from mpkir.analysis.dependence import Hazard, conflicts_of, touches_of
from mpkir.analysis.event_use import EventUse, event_use_of
from mpkir.analysis.families import families_of
from mpkir.analysis.orderings import step_orderings_of
from mpkir.analysis.precision import Precision, precision_of
from mpkir.analysis.task_pairs import pairs_of
from mpkir.dialects import tensor

_NO_WORK = (
    tensor.WeightOp,
    tensor.InputOp,
    tensor.StateOp,
    tensor.PositionOp,
    tensor.ReshapeOp,
    tensor.StoreStateOp,
    tensor.OutputOp,
)
"""Operators of the tensor level that name or reshape what is there."""


@dataclass(frozen=True)
class GraphStatistics:
    """Counts of one step. What a module's level does not know yet is None."""

    operators: int
    tasks: int | None = None
    """Without empty ones that only join events."""
    joins: int | None = None
    """Empty tasks."""
    pairs: int | None = None
    """Tasks of different families of which the later has to wait for the earlier, because they
    touch the same elements and no third one in between orders them."""
    data_pairs: int | None = None
    """Those of them where the later task reads what the earlier one wrote."""
    step_pairs: int | None = None
    """Tasks of two consecutive steps that likewise have to wait for each other."""
    events: int | None = None
    """Counters."""
    ordered: int | None = None
    """Pairs of tasks of conflicting families of which one signals what the other waits for."""
    needed: int | None = None
    """How many pairs of those families' tasks conflict."""
    released: int | None = None
    """Lengths of the lists of tasks that each event releases, together."""
    ranges: int | None = None
    """Ranges of consecutive tasks that make up these lists."""
    waits: int | None = None
    """Executed in a step; of a scheduled module, those that the table keeps."""
    signals: int | None = None
    chain: int | None = None
    """Tasks in the longest sequence of which each waits for the one before, joins included."""

    @property
    def tasks_per_operator(self) -> float | None:
        """Mean size of a family."""
        return _ratio(self.tasks, self.operators)

    @property
    def fusion_ratio(self) -> float | None:
        """Dependent pairs for each event."""
        return _ratio(self.pairs, self.events)

    @property
    def linearization_ratio(self) -> float | None:
        """Tasks in lists of released tasks for each range that replaces them."""
        return _ratio(self.released, self.ranges)

    @property
    def handoffs(self) -> int | None:
        """Waits and signals together."""
        return None if self.waits is None or self.signals is None else self.waits + self.signals

    def rows(self) -> Iterator[tuple[str, str]]:
        """What is known, as names and numbers for people."""
        rows: tuple[tuple[str, float | None], ...] = (
            ("operators", self.operators),
            ("tasks", self.tasks),
            ("tasks per operator", self.tasks_per_operator),
            ("joins", self.joins),
            ("task pairs", self.pairs),
            ("task pairs by data", self.data_pairs),
            ("task pairs from step to step", self.step_pairs),
            ("events", self.events),
            ("pairs they order", self.ordered),
            ("pairs they have to order", self.needed),
            ("fusion ratio", self.fusion_ratio),
            ("linearization ratio", self.linearization_ratio),
            ("waits per step", self.waits),
            ("signals per step", self.signals),
            ("longest chain", self.chain),
        )
        for name, value in rows:
            if value is not None:
                yield name, f"{value:,}" if isinstance(value, int) else f"{value:.1f}"


def _ratio(a: int | None, b: int | None) -> float | None:
    return None if a is None or not b else a / b


def statistics_of(module: ModuleOp) -> GraphStatistics:
    """The statistics of a module at any level.

    Raises MpkirError where events go round in a circle.
    """
    families = families_of(module)
    if not families:
        return GraphStatistics(operators=sum(1 for _ in _operators(module)))
    working = [family for family in families if family.accesses]
    conflicts = conflicts_of(touches_of(families))
    use = event_use_of(module, families)
    return GraphStatistics(
        operators=len(working),
        tasks=sum(family.size for family in working),
        joins=sum(family.size for family in families if not family.accesses),
        pairs=sum(pairs_of(conflict) for conflict in conflicts),
        data_pairs=sum(pairs_of(conflict, Hazard.READ_AFTER_WRITE) for conflict in conflicts),
        step_pairs=sum(ordering.pairs for ordering in step_orderings_of(families)),
        **_of_events(use, precision_of(module, families)),
    )


def _operators(module: ModuleOp) -> Iterator[object]:
    for step in module.body.block.ops:
        if isinstance(step, func.FuncOp):
            yield from (
                op
                for op in step.body.block.ops
                if op.name.startswith("mpk_tensor.") and not isinstance(op, _NO_WORK)
            )


def _of_events(use: EventUse | None, precision: Sequence[Precision]) -> dict[str, int]:
    if use is None:
        return {}
    waits, signals = use.executed()
    return {
        "events": use.counters,
        "ordered": sum(each.ordered for each in precision),
        "needed": sum(each.needed for each in precision),
        "released": use.released,
        "ranges": use.ranges(),
        "waits": waits,
        "signals": signals,
        "chain": use.longest_chain(),
    }
