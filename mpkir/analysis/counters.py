"""Counters for the pairs of a relation: which counter a task signals and which one it waits for.

Every factor of a relation numbers its connected components along its own variables; a sided product
of bipartite graphs has the products of their components as components (any two of a component are
joined by walks that can be taken in all factors at once), so the counter is the tuple of the
numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np
from xdsl.ir.affine import AffineExpr, AffineMap

from mpkir.analysis.bands import Band, Floors, Labels
from mpkir.analysis.families import Ints
from mpkir.analysis.relation import Factor, Relation

Arrivals: TypeAlias = int | tuple[int, ...]
"""Of all counters, or of each."""


@dataclass(frozen=True)
class Counters:
    """An event tensor that orders two families: maps to its counters, arrivals, what it orders."""

    signal: AffineMap
    wait: AffineMap
    counters: int
    arrivals: Arrivals
    ordered: int
    """Pairs of tasks that the tensor orders."""
    needed: int
    """Pairs of tasks that have to be."""
    followed: bool
    """Whether somebody waits for every counter."""


@dataclass(frozen=True)
class _Column:
    """The counters' numbers by one factor: from 0 to count - 1, `wait` taken modulo count where
    tasks that meet nobody would fall outside.
    """

    factor: Factor
    signal: Floors
    wait: Floors
    count: int
    wraps: bool

    @classmethod
    def of(cls, factor: Factor) -> _Column:
        band = factor.band
        labels = band.labels() or _single(band, factor)
        least, greatest = labels.earlier(0), labels.earlier(factor.earlier.size - 1)
        signal, wait = labels.earlier.plus(-least), labels.later.plus(-least)
        outside = wait(0) < 0 or wait(factor.later.size - 1) > greatest - least
        return cls(factor, signal, wait, greatest - least + 1, outside)

    def ends(self) -> Sequence[int]:
        """Counters among which there is one like each: between a period from the first and one to
        the last they repeat.
        """
        near = 2 * _period(self.factor.band) + 1
        if self.count <= 2 * near:
            return range(self.count)
        return [*range(near), *range(self.count - near, self.count)]

    def arrivals(self) -> Arrivals:
        """Signals of each counter from the values of this factor's variable."""
        size = self.factor.earlier.size
        found = {_size_of(self.signal, size, counter) for counter in self.ends()}
        if len(found) == 1:
            return found.pop()
        numbers = self.signal.of_all(size)
        return tuple(np.bincount(numbers, minlength=self.count).tolist())

    def followed(self) -> bool:
        """Whether every counter is waited for, those that are only by going round not counted."""
        size = self.factor.later.size
        return all(_size_of(self.wait, size, counter) for counter in self.ends())

    def ordered(self) -> int:
        """Pairs of values with the same counter."""
        earlier, later = self.factor.earlier.size, self.factor.later.size
        if self.wraps:
            waits = np.bincount(self.wait.of_all(later) % self.count, minlength=self.count)
            return int(np.bincount(self.signal.of_all(earlier), minlength=self.count) @ waits)
        first, last = self.wait(0), self.wait(later - 1)
        period = _period(self.factor.band)

        def between(begin: int, end: int) -> int:
            return sum(
                _size_of(self.signal, earlier, counter) * _size_of(self.wait, later, counter)
                for counter in range(begin, end)
            )

        periods = max((last + 1 - first) // period - 2, 0)
        middle = first + period
        return (
            between(first, middle)
            + periods * between(middle, middle + min(periods, 1) * period)
            + between(middle + periods * period, last + 1)
        )


def _period(band: Band) -> int:
    """Components in a period of the band."""
    labels = band.labels()
    return labels.period if labels else 1


def _single(band: Band, factor: Factor) -> Labels:
    """One component: its numbers have label 0, and others on both sides others if there are any."""
    (t0, t1), (u0, u1) = band.t, band.u
    if (t0, t1) == (0, factor.earlier.size):
        return Labels(Floors(()), Floors(()), 1)
    length = t1 - t0
    return Labels(Floors(((1, -t0, length),)), Floors(((1, -u0, max(u1 - u0, 1)),)), 1)


def _size_of(labels: Floors, size: int, label: int) -> int:
    """How many numbers from 0 to size - 1 have a label."""
    return _first(labels, size, label + 1) - _first(labels, size, label)


def _first(labels: Floors, size: int, label: int) -> int:
    """The first number from 0 to size whose label is not less."""
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        if labels(middle) < label:
            low = middle + 1
        else:
            high = middle
    return low


def counters_of(relation: Relation) -> Counters:
    """The finest counters that affine maps can choose for a relation with at least one pair."""
    columns = [_Column.of(factor) for factor in relation.factors]
    count = prod(column.count for column in columns)
    signal: AffineExpr = AffineExpr.constant(0)
    wait: AffineExpr = AffineExpr.constant(0)
    place, ordered = count, 1
    earlier, later = prod(relation.earlier_grid), prod(relation.later_grid)
    each: list[Arrivals] = []
    for column in columns:
        factor = column.factor
        place //= column.count
        earlier //= factor.earlier.size
        later //= factor.later.size
        ordered *= column.ordered()
        each.append(column.arrivals())
        if column.count == 1:
            continue
        signals = column.signal.expression(factor.earlier.expression(relation.earlier_grid))
        waited = column.wait.expression(factor.later.expression(relation.later_grid))
        signal = signal + place * signals
        wait = wait + place * (waited % column.count if column.wraps else waited)
    return Counters(
        AffineMap(len(relation.earlier_grid), 0, (signal,)),
        AffineMap(len(relation.later_grid), 0, (wait,)),
        count,
        _product(each, [column.count for column in columns], earlier),
        ordered * earlier * later,
        relation.pairs,
        all(column.followed() for column in columns),
    )


def _product(each: Sequence[Arrivals], counts: Sequence[int], more: int) -> Arrivals:
    """Arrivals of tuples of counters, each from `more` tasks for every tuple of values."""
    if all(isinstance(arrivals, int) for arrivals in each):
        return prod((a for a in each if isinstance(a, int)), start=more)
    result: Ints = np.full(1, more, np.int64)
    for arrivals, count in zip(each, counts, strict=True):
        part = np.full(count, arrivals) if isinstance(arrivals, int) else np.array(arrivals)
        result = np.outer(result, part).reshape(-1)
    return tuple(result.tolist())
