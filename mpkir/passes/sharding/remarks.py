"""What a user should know of a division: what ranks do whole, or share with few, and why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from xdsl.dialects.builtin import NameLoc
from xdsl.ir import Attribute, Block, Operation, SSAValue

from mpkir.dialects import tensor
from mpkir.passes.sharding.forms import WHOLE, Form, Way
from mpkir.passes.sharding.rules import ways_of

_WORTH = (tensor.LinearOp, tensor.ExpertLinearOp, tensor.AttentionOp, tensor.SdpaOp)
"""Operators that are worth dividing."""

_NAMED = (tensor.WeightOp, tensor.FullOp, tensor.StateOp)


def remarks_on(block: Block, ways: Mapping[Operation, Way], ranks: int, most: int) -> list[str]:
    """A line for each kind of product or attention of a step that is not divided among all ranks,
    in the order of the program; `most` ranks are thought of. Equal ones of different layers are
    one."""
    short = {
        op: shares
        for op, way in ways.items()
        if isinstance(op, _WORTH) and (shares := _shares(way)) < ranks
    }
    if not short:
        return []
    possible = {n: possible_shares(block, n) for n in range(2, most + 1)}
    found: Counter[tuple[str, str]] = Counter()
    for op, shares in short.items():
        others = [n for n, each in possible.items() if n in each[op]]
        found[re.sub(r"\d+", "*", _name(op.location)), _remark(op, shares, ranks, others)] += 1
    return [
        ": ".join(filter(None, (where if n == 1 else f"{n} x {where}", text)))
        for (where, text), n in found.items()
    ]


def possible_shares(block: Block, ranks: int) -> dict[Operation, set[int]]:
    """Among how many ranks each product and attention of a step can be divided, whatever it costs:
    where its operands can be in the forms that it takes."""
    forms: dict[SSAValue, set[Form]] = {}
    result: dict[Operation, set[int]] = {}
    for op in block.ops:
        if isinstance(op, _NAMED):
            continue  # in any form
        shares: set[int] = set()
        for way in ways_of(op, ranks):
            taken = zip(op.operands, way.operands, strict=True)
            if all(form == WHOLE or form in forms.get(v, (form,)) for v, form in taken):
                shares.add(_shares(way))
                for value, form in zip(op.results, way.results, strict=True):
                    forms.setdefault(value, set()).add(form)
        if isinstance(op, _WORTH):
            result[op] = shares
    return result


def can_divide(block: Block, ranks: int) -> bool:
    """Whether there is any way to divide any product or attention."""
    return any(max(shares) > 1 for shares in possible_shares(block, ranks).values())


def sizes_text(op: Operation) -> str:
    """The sizes by which an operator can be divided."""
    match op:
        case tensor.AttentionOp():
            heads, keys = tensor.shape_of(op.q)[2], tensor.shape_of(op.k)[2]
            return f"{heads} heads of queries and {keys} of keys"
        case tensor.SdpaOp():
            heads, keys = tensor.shape_of(op.q)[1], tensor.shape_of(op.k)[1]
            return f"{heads} heads of queries and {keys} of keys"
        case _:
            features = tensor.shape_of(op.results[0])[-1], tensor.shape_of(op.operands[0])[-1]
            return f"{features[0]} features out of {features[1]}"


def list_text(numbers: Iterable[int]) -> str:
    """ "2, 4 or 8", "none" """
    *most, last = [str(each) for each in numbers] or ["none"]
    return f"{', '.join(most)} or {last}" if most else last


def _shares(way: Way) -> int:
    return max((form.of for form in (*way.operands, *way.results)), default=1)


def _remark(op: Operation, shares: int, ranks: int, others: Sequence[int]) -> str:
    done = "whole on every rank" if shares == 1 else f"shared by {shares} of {ranks} ranks each"
    if ranks in others:
        return f"{done}, which takes less time than exchanging what {ranks} make of it"
    return f"{sizes_text(op)} are {done}; {list_text(others)} would share them"


def _name(location: Attribute) -> str:
    while isinstance(location, NameLoc):
        if location.desc.data:
            return location.desc.data
        location = location.location
    return ""
