"""Boxes of a family's tasks as intervals of runs of a buffer's elements, in closed form.

The element number of a buffer is read in the mixed radix of an access's strides: one interval for
each digit, its lower end a sum of digits of the grid index. Two accesses are compared where both
have the same radices; `aligned` splits and joins intervals until they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mpkir.analysis.digits import Linear, linear_of
from mpkir.analysis.families import Access


@dataclass(frozen=True)
class Interval:
    """What tasks touch of one digit of the element number: [low, low + size), cut to [begin, end).

    A unit of the digit is `place` elements; it has `limit` values (None: the most significant).
    """

    place: int
    limit: int | None
    low: Linear
    size: int
    begin: int
    end: int

    @property
    def uncut(self) -> bool:
        """Whether [begin, end) cuts nothing off."""
        return self.begin <= self.low.least and self.low.greatest + self.size <= self.end

    @property
    def whole(self) -> bool:
        """Whether every task touches every value of the digit."""
        return (
            self.limit is not None
            and self.begin <= 0
            and self.end >= self.limit
            and self.low.greatest <= 0
            and self.low.least + self.size >= self.limit
        )

    def split(self, radix: int) -> tuple[Interval, Interval] | None:
        """The same elements by two digits, the lower of `radix` values, if they are boxes."""
        if self.limit is not None and self.limit % radix:
            return None
        parts = self.low.split(radix)
        cut_evenly = not (self.begin % radix or self.end % radix)
        if parts is None or not (self.uncut or cut_evenly):
            return None
        high, low = parts
        limit = None if self.limit is None else self.limit // radix
        upper = Interval(
            self.place * radix, limit, high, 1, self.begin // radix, -(-self.end // radix)
        )
        if low.greatest + self.size <= radix:
            return upper, Interval(self.place, radix, low, self.size, 0, radix)
        if low == Linear((), 0) and self.size % radix == 0:
            lower = Interval(self.place, radix, low, radix, 0, radix)
            return replace(upper, size=self.size // radix), lower
        return None

    def join(self, lower: Interval) -> Interval | None:
        """The same elements by one digit instead of this and the next lower one."""
        radix = lower.limit
        assert radix is not None
        low, begin, end = self.low * radix, self.begin * radix, self.end * radix
        if lower.whole:
            return Interval(
                lower.place, self.limit and self.limit * radix, low, self.size * radix, begin, end
            )
        if self.size == 1 and lower.uncut:
            return Interval(
                lower.place,
                self.limit and self.limit * radix,
                low + lower.low,
                lower.size,
                begin,
                end,
            )
        return None


@dataclass(frozen=True)
class Intervals:
    """An access in closed form: a task touches the product of its intervals, and nothing at all if
    one of `guards` is empty for it.
    """

    intervals: tuple[Interval, ...]
    """From the most significant digit down to single elements."""
    guards: tuple[Interval, ...]
    """Dimensions without any extent in memory: of size 1, or repeating elements."""

    @property
    def lows(self) -> tuple[Linear, ...]:
        """All lower ends."""
        return tuple(part.low for part in (*self.intervals, *self.guards))


def intervals_of(access: Access, grid: Sequence[int]) -> Intervals | None:
    """An access in closed form, if its offsets are sums of digits and its strides are nested."""
    offsets = [linear_of(e, grid) for e in access.box.offsets.data.results]
    dims: list[tuple[int, int, Linear, int]] = []
    guards: list[Interval] = []
    for stride, n, low, size in zip(
        access.strides, access.shape, offsets, access.box.shape, strict=True
    ):
        if low is None:
            return None
        if n == 1 or not stride:
            guard = Interval(0, None, low, size, 0, n)
            guards += [] if guard.uncut else [guard]
        else:
            dims.append((stride, n, low, size))
    dims.sort(key=lambda dim: -dim[0])
    if not dims or dims[-1][0] > 1:
        # All elements have the same remainder by the least stride.
        dims.append((1, 1, Linear((), 0), 1))
    result: list[Interval] = []
    rest, outer = access.offset, None
    for place, n, low, size in dims:
        limit = None
        if outer is not None:
            limit, uneven = divmod(outer, place)
            if uneven:
                return None
        offset, rest = divmod(rest, place)
        if limit is not None and offset + n > limit:
            return None
        result.append(_settled(Interval(place, limit, low + offset, size, offset, offset + n)))
        outer = place
    return Intervals(tuple(result), tuple(guards))


def _settled(interval: Interval) -> Interval:
    """An interval that is the same for all tasks cut once for all, if something is left of it."""
    if interval.low.terms:
        return interval
    low = max(interval.low.constant, interval.begin)
    high = min(interval.low.constant + interval.size, interval.end)
    if low >= high:
        return interval
    return replace(interval, low=Linear((), low), size=high - low, begin=low, end=high)


def aligned(
    one: Sequence[Interval], other: Sequence[Interval]
) -> tuple[list[Interval], list[Interval]] | None:
    """Two accesses of a buffer by the same digits, if both are boxes in some."""
    sides = [list(one), list(other)]
    while True:
        places = [{part.place for part in side} for side in sides]
        different = places[0] ^ places[1]
        if not different:
            return sides[0], sides[1]
        place = max(different)
        has = 0 if place in places[0] else 1
        if not (_split_at(sides[1 - has], place) or _join_at(sides[has], place)):
            return None


def _split_at(side: list[Interval], place: int) -> bool:
    at = next(i for i, part in enumerate(side) if part.place < place)
    part = side[at]
    if place % part.place or (at and side[at - 1].place % place):
        return False
    parts = part.split(place // part.place)
    if parts is None:
        return False
    side[at : at + 1] = parts
    return True


def _join_at(side: list[Interval], place: int) -> bool:
    at = next(i for i, part in enumerate(side) if part.place == place)
    joined = side[at].join(side[at + 1])
    if joined is None:
        return False
    side[at : at + 2] = [joined]
    return True
