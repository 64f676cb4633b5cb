"""What a user should know of a division: what ranks do whole, or share with few, and why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from xdsl.dialects.builtin import NameLoc
from xdsl.ir import Attribute, Operation

from mpkir.dialects import tensor
from mpkir.passes.sharding.forms import Way
from mpkir.passes.sharding.rules import ways_of

_WORTH = (tensor.LinearOp, tensor.ExpertLinearOp, tensor.AttentionOp, tensor.SdpaOp)
"""Operators that are worth dividing."""


def remarks_on(ways: Mapping[Operation, Way], ranks: int, most: int) -> list[str]:
    """A line for each kind of product or attention that is not divided among all ranks, in the
    order of the program; `most` ranks are thought of. Equal ones of different layers are one."""
    found: Counter[tuple[str, str]] = Counter()
    for op, way in ways.items():
        if isinstance(op, _WORTH) and (shares := _shares(way)) < ranks:
            found[re.sub(r"\d+", "*", _name(op.location)), _remark(op, shares, ranks, most)] += 1
    return [
        ": ".join(filter(None, (where if n == 1 else f"{n} x {where}", text)))
        for (where, text), n in found.items()
    ]


def can_divide(ops: Iterable[Operation], ranks: int) -> bool:
    """Whether there is any way to divide any product or attention."""
    return any(
        _shares(way) > 1 for op in ops if isinstance(op, _WORTH) for way in ways_of(op, ranks)
    )


def would_divide(op: Operation, most: int) -> Iterator[int]:
    """How many ranks, up to `most`, could divide an operator among all of them."""
    for ranks in range(2, most + 1):
        if any(_shares(way) == ranks for way in ways_of(op, ranks)):
            yield ranks


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


def _remark(op: Operation, shares: int, ranks: int, most: int) -> str:
    done = "whole on every rank" if shares == 1 else f"shared by {shares} of {ranks} ranks each"
    if any(_shares(way) == ranks for way in ways_of(op, ranks)):
        return f"{done}, which takes less time than exchanging what {ranks} make of it"
    return f"{sizes_text(op)} are {done}; {list_text(would_divide(op, most))} would share them"


def _name(location: Attribute) -> str:
    while isinstance(location, NameLoc):
        if location.desc.data:
            return location.desc.data
        location = location.location
    return ""
