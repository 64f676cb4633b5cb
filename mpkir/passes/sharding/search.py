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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from xdsl.ir import Block, Operation, SSAValue
from xdsl.traits import IsTerminator

from mpkir.dialects import tensor
from mpkir.passes.sharding.costs import Costs
from mpkir.passes.sharding.forms import WHOLE, Form, Way
from mpkir.passes.sharding.rules import ways_of

KEPT = 1024
"""Most choices that are followed at a time."""

FREE = (tensor.WeightOp, tensor.FullOp)
"""Operators whose value each reader can have in any form."""

_Held = dict[SSAValue | str, tuple[Form, ...]]
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
    """The way for every operator of a step. Weights and states have none: they are as their readers
    want them."""
    ops = list(_in_order(block))
    last = _last_uses(ops)
    choices = [_Choice(0.0, {})]
    for place, op in enumerate(ops):
        ways = [(way, costs.of_way(op, way)) for way in ways_of(op, costs.ranks)]
        best: dict[tuple[object, ...], _Choice] = {}
        for choice in choices:
            for way, cost in ways:
                found = _taken(choice, op, way, cost, costs)
                if found is None:
                    continue
                over = [key for key in found.held if last[key] <= place]
                for key in over:
                    del found.held[key]
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
    return result


def _taken(choice: _Choice, op: Operation, way: Way, cost: float, costs: Costs) -> _Choice | None:
    """A choice with a way for one more operator; None if its operands cannot have these forms."""
    held: _Held = dict(choice.held)
    cost += choice.cost
    for value, form in zip(op.operands, way.operands, strict=True):
        owner = value.owner
        if isinstance(owner, FREE):
            continue
        key: SSAValue | str = owner.sym.data if isinstance(owner, tensor.StateOp) else value
        forms = held.get(key)
        if forms is None and isinstance(owner, tensor.StateOp):
            held[key] = (form,)
        elif forms is None or form not in forms:
            if form != WHOLE or forms is None:
                return None
            cost += costs.of_gather(value, forms[0])
            held[key] = (*forms, WHOLE)
    if isinstance(op, tensor.StoreStateOp):
        # A state is stored as it was read.
        (form,) = way.operands
        if held.setdefault(op.sym.data, (form,))[0] != form:
            return None
    for value, form in zip(op.results, way.results, strict=True):
        held[value] = (form,)
    return _Choice(cost, held, op, way, choice)


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


def _last_uses(ops: Sequence[Operation]) -> dict[SSAValue | str, int]:
    """The place of the last operator that asks for the form of a value or a state."""
    result: dict[SSAValue | str, int] = {}
    for place, op in enumerate(ops):
        for value in (*op.operands, *op.results):
            owner = value.owner
            result[owner.sym.data if isinstance(owner, tensor.StateOp) else value] = place
        if isinstance(op, tensor.StoreStateOp):
            result[op.sym.data] = place
    return result
