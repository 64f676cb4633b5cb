"""Values of activations, when they live, and which may lie in the same memory.

The values are the scratch buffers of a module, as they are before any share memory.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from xdsl.dialects.builtin import FixedBitwidthType
from xdsl.ir import Attribute

from mpkir.analysis.families import Access, Family
from mpkir.analysis.precedence import Precedence, reach_of
from mpkir.dialects.task import BufferKind, BufferOp, memref_type_of


def element_bytes(type: Attribute) -> int:
    """Bytes of one element in memory."""
    assert isinstance(type, FixedBitwidthType)
    return max(1, type.bitwidth // 8)


def bytes_of(buffer: BufferOp) -> int:
    """Size of a buffer; an element with a whole tag takes twice its own. Gaps between groups that
    lie apart do not count."""
    type = memref_type_of(buffer.result)
    tagged = 1 if buffer.flagged is None or buffer.brief is not None else 2
    return tagged * prod(type.get_shape()) * element_bytes(type.get_element_type())


@dataclass(frozen=True, eq=False)
class Value:
    """An activation: its buffer and the families, by number, that touch it."""

    buffer: BufferOp
    size: int
    """Elements."""
    touched: tuple[int, ...]
    """Ascending."""
    written: tuple[int, ...]
    is_transient: bool
    """Written as a whole before anything reads it in the step, so no step sees what is left of the
    one before, and what lay in its memory before is never seen through it."""

    @property
    def first(self) -> int:
        """The family that defines it."""
        return self.touched[0]

    @property
    def last(self) -> int:
        """The last family that touches it."""
        return self.touched[-1]


def values_of(families: Sequence[Family]) -> list[Value]:
    """The activations that some family touches, in the order in which they are defined."""
    accesses: dict[BufferOp, list[tuple[Family, Access]]] = {}
    for family in families:
        for access in family.accesses:
            if access.buffer.kind.data is BufferKind.SCRATCH:
                accesses.setdefault(access.buffer, []).append((family, access))
    return [_value(buffer, each) for buffer, each in accesses.items()]


def _value(buffer: BufferOp, accesses: Sequence[tuple[Family, Access]]) -> Value:
    first = accesses[0][0]
    own = [access for family, access in accesses if family is first]
    is_transient = (
        all(access.is_write for access in own) and reach_of(buffer, own, first.op.grid).covers
    )
    return Value(
        buffer,
        prod(memref_type_of(buffer.result).get_shape()),
        tuple(dict.fromkeys(family.number for family, _ in accesses)),
        tuple(dict.fromkeys(family.number for family, access in accesses if access.is_write)),
        is_transient,
    )


def peak_bytes(values: Sequence[Value]) -> int:
    """Most bytes of values that live at once if families run one after another.

    No plan that keeps to program order can do with less.
    """
    change: dict[int, int] = {}
    for value in values:
        change[value.first] = change.get(value.first, 0) + bytes_of(value.buffer)
        change[value.last + 1] = change.get(value.last + 1, 0) - bytes_of(value.buffer)
    live = most = 0
    for at in sorted(change):
        live += change[at]
        most = max(most, live)
    return most


@dataclass
class Place:
    """Memory that values share one after another; `values` in program order."""

    values: list[Value] = field(default_factory=list[Value])

    @property
    def size(self) -> int:
        """Elements."""
        return max(value.size for value in self.values)


@dataclass(frozen=True)
class ProgramOrder:
    """A value may follow another if it is defined by a later family than touches the other."""

    def may_follow(self, earlier: Value, later: Value) -> bool:
        """Whether `later` may take the memory of `earlier`."""
        return earlier.last < later.first


class DataOrder:
    """A value may follow another if data already orders all that touch the other before all that
    write it: sharing then makes nobody wait."""

    def __init__(self, precedence: Precedence, values: Sequence[Value]) -> None:
        self._after = {value: precedence.common(value.touched) for value in values}
        self._written = {value: sum(1 << family for family in value.written) for value in values}

    def may_follow(self, earlier: Value, later: Value) -> bool:
        """Whether `later` may take the memory of `earlier`."""
        return not self._written[later] & ~self._after[earlier]


def share(values: Sequence[Value], order: ProgramOrder | DataOrder) -> list[Place]:
    """Give every value a place, the largest first, each where it leaves the least unused.

    Values of one element type, all transient. "Greedy by size for shared objects" of Pisarchyk and
    Lee, Efficient Memory Management for Deep Neural Net Inference (2020), section 4.3.
    """
    places: list[Place] = []
    for value in sorted(values, key=lambda v: (-v.size, v.first)):
        # All places are at least as large as this value, so the smallest fits best.
        for place in sorted(places, key=lambda p: p.size):
            at = bisect([each.first for each in place.values], value.first)
            before, after = place.values[:at][-1:], place.values[at:][:1]
            if all(order.may_follow(each, value) for each in before) and all(
                order.may_follow(value, each) for each in after
            ):
                place.values.insert(at, value)
                break
        else:
            places.append(Place([value]))
    return places
