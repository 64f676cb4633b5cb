"""The cheapest way to divide a whole step: one way for each operator, gathers where they must be.

Every operator's ways ask for forms of its operands. Weights have any form for nothing; a value that
each rank has a part of can be gathered once for all who want the whole; nothing whole becomes parts
again, since no operator may depend on the rank that runs it. Going through the operators in order,
of all choices that leave the values still needed in the same forms only the cheapest can be part of
the best; so the search is exact, and as fast as few values are alive at a time (in a decoder the
residual stream, and queries, keys and values before an attention). This is the dynamic program
over a frontier of, e.g., "Exploring Hidden Dimensions in Parallelizing CNNs" (Jia et al., 2018,
section 5), with a bound on how many choices are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf

from xdsl.ir import Block, Operation, SSAValue
from xdsl.traits import IsTerminator

from mpkir.dialects import tensor
from mpkir.passes.sharding.costs import Costs
from mpkir.passes.sharding.forms import WHOLE, Form, Way
from mpkir.passes.sharding.rules import ways_of

KEPT = 256
"""Most choices that are followed at a time."""

FREE = (tensor.WeightOp, tensor.FullOp)
"""Operators whose value each reader can have in any form."""

_Key = SSAValue | str
_Held = dict[_Key, tuple[Form, ...]]
"""The forms in which values, and states by name, are there; of a value its own form first."""


@dataclass(frozen=True)
class _Choice:
    """A way for the operators so far, as a list from the last to the first."""

    cost: float
    held: _Held
    op: Operation | None = None
    way: Way | None = None
    before: _Choice | None = None


def cheapest_ways(block: Block, costs: Costs) -> dict[Operation, Way]:
    """The way for every operator of a step, in their order. Weights and states have none: they are
    as their readers want them."""
    ops = list(_in_order(block))
    over = _over(ops)
    choices = [_Choice(0.0, {})]
    for op, ended in zip(ops, over, strict=True):
        turn = _Turn(op, costs)
        best: dict[tuple[object, ...], _Choice] = {}
        for choice in choices:
            for found in turn.taken(choice):
                for key in ended:
                    found.held.pop(key, None)
                key = tuple(found.held.items())
                if key not in best or found.cost < best[key].cost:
                    best[key] = found
        choices = sorted(best.values(), key=lambda choice: choice.cost)[:KEPT]
    result: dict[Operation, Way] = {}
    choice: _Choice | None = choices[0]
    while choice is not None:
        if choice.op is not None and choice.way is not None:
            result[choice.op] = choice.way
        choice = choice.before
    return dict(reversed(result.items()))


class _Turn:
    """One operator in its turn: its ways with what they cost, and what they ask for."""

    def __init__(self, op: Operation, costs: Costs):
        self.op = op
        self.costs = costs
        self.gathers: dict[tuple[_Key, Form], float] = {}
        priced = ((way, costs.of_way(op, way)) for way in ways_of(op, costs.ranks))
        self.ways = [(way, cost, self._wanted(way)) for way, cost in priced if cost < inf]

    def _wanted(self, way: Way) -> list[tuple[SSAValue, _Key, Form]]:
        """The operands that have one form for all, and the form that a way takes each in."""
        wanted = (
            (value, _key(value), form)
            for value, form in zip(self.op.operands, way.operands, strict=True)
            if not isinstance(value.owner, FREE)
        )
        return list(dict.fromkeys(wanted))

    def taken(self, choice: _Choice) -> Iterator[_Choice]:
        """A choice with each way that its operands allow."""
        for way, cost, wanted in self.ways:
            held = self._held(choice.held, wanted)
            if held is None:
                continue
            for value, key, form in wanted:
                if form not in choice.held.get(key, (form,)):
                    cost += self._gather(value, key, choice.held[key][0])
            if isinstance(self.op, tensor.StoreStateOp):
                # A state is stored as it was read.
                (form,) = way.operands
                if held.setdefault(self.op.sym.data, (form,))[0] != form:
                    continue
            for value, form in zip(self.op.results, way.results, strict=True):
                held[value] = (form,)
            yield _Choice(choice.cost + cost, held, self.op, way, choice)

    @staticmethod
    def _held(held: _Held, wanted: Iterable[tuple[SSAValue, _Key, Form]]) -> _Held | None:
        """What is there once an operator has its operands; None if some cannot be had."""
        added: _Held = {}
        for value, key, form in wanted:
            forms = added.get(key) or held.get(key)
            if isinstance(value.owner, tensor.StateOp) and form.pieces:
                return None  # the host has states in plain parts
            if forms is None:
                added[key] = (form,)  # a state is as its first reader wants it
            elif form not in forms:
                if form != WHOLE or forms[0].pieces:
                    return None  # parts of pieces one after another are not gathered
                added[key] = (*forms, WHOLE)
        return held | added

    def _gather(self, value: SSAValue, key: _Key, form: Form) -> float:
        if (key, form) not in self.gathers:
            self.gathers[key, form] = self.costs.of_gather(value, form, self.op)
        return self.gathers[key, form]


def _key(value: SSAValue) -> _Key:
    """What stands for a value: all values that a state has in a step are one."""
    return value.owner.sym.data if isinstance(value.owner, tensor.StateOp) else value


def _in_order(block: Block) -> Iterator[Operation]:
    """The operators that do something; what leaves the program right behind what it depends on, so
    that few values are alive."""
    for op in block.ops:
        if isinstance(op, (*FREE, tensor.StateOp, tensor.OutputOp, tensor.StoreStateOp)):
            if op.operands and not _is_made(op.operands[0]):
                yield op
            continue
        if op.has_trait(IsTerminator):
            continue
        yield op
        for result in op.results:
            for use in result.uses:
                if isinstance(use.operation, tensor.OutputOp | tensor.StoreStateOp):
                    yield use.operation


def _is_made(value: SSAValue) -> bool:
    """Whether an operator of the step makes a value, rather than a name standing for it."""
    return isinstance(value.owner, Operation) and not isinstance(
        value.owner, (*FREE, tensor.StateOp)
    )


def _over(ops: Sequence[Operation]) -> list[list[_Key]]:
    """For each operator, the values and states for whose form nobody asks any more after it."""
    last: dict[_Key, int] = {}
    for place, op in enumerate(ops):
        for value in (*op.operands, *op.results):
            last[_key(value)] = place
        if isinstance(op, tensor.StoreStateOp):
            last[op.sym.data] = place
    result: list[list[_Key]] = [[] for _ in ops]
    for key, place in last.items():
        result[place].append(key)
    return result
