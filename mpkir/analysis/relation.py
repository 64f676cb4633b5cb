"""The pairs of tasks of two families that touch a common element, in closed form.

Where boxes are products of intervals that depend on different digits of the grid index, two tasks
meet if they meet in every dimension, so that the relation is a product of bands. Time and size
follow the number of dimensions, not the number of tasks. `relation_of` gives None where accesses
are not of that form; `mpkir.analysis.dependence` compares their tasks' boxes one by one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod

from mpkir.analysis.bands import Band
from mpkir.analysis.digits import Digit, Linear, Variable, independent, variable_of
from mpkir.analysis.families import Access
from mpkir.analysis.intervals import Interval, aligned, intervals_of


@dataclass(frozen=True)
class Factor:
    """Numbers of an earlier and of a later task, and which of them go together."""

    earlier: Variable
    later: Variable
    band: Band

    @property
    def is_everything(self) -> bool:
        """Whether all numbers go together."""
        everything = (0, self.earlier.size), (0, self.later.size)
        return (self.band.t, self.band.u) == everything and self.band.complete

    def order(self) -> tuple[tuple[Digit, ...], tuple[Digit, ...]]:
        """A place among other factors."""
        return self.later.digits, self.earlier.digits


@dataclass(frozen=True)
class Relation:
    """The pairs of tasks of two grids that are in the band of every factor.

    The factors' variables share no digits. Without factors all pairs are in the relation.
    """

    earlier_grid: tuple[int, ...]
    later_grid: tuple[int, ...]
    factors: tuple[Factor, ...]

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        result = prod(self.earlier_grid) * prod(self.later_grid)
        for factor in self.factors:
            result //= factor.earlier.size * factor.later.size
            result *= factor.band.pairs
        return result

    def contains(self, other: Relation) -> bool:
        """Whether all pairs of another relation of these grids are in this one; False also where
        that is not plain.
        """
        theirs = {(f.earlier, f.later): f.band for f in other.factors}
        return all(
            (f.earlier, f.later) in theirs and f.band.contains(theirs[f.earlier, f.later])
            for f in self.factors
        )


def relation_of(
    earlier: Access, earlier_grid: tuple[int, ...], later: Access, later_grid: tuple[int, ...]
) -> Relation | None:
    """Which tasks of two accesses of one buffer meet; None where there is no closed form."""
    one, other = intervals_of(earlier, earlier_grid), intervals_of(later, later_grid)
    if one is None or other is None:
        return None
    both = aligned(one.intervals, other.intervals)
    if both is None:
        return None
    if not all(
        independent([digit for low in each for digit, _ in low.terms])
        for each in (
            [part.low for part in (*both[0], *one.guards)],
            [part.low for part in (*both[1], *other.guards)],
        )
    ):
        return None
    factors: list[Factor] = []
    for a, b in (
        *zip(*both, strict=True),
        *((guard, _all_of(guard)) for guard in one.guards),
        *((_all_of(guard), guard) for guard in other.guards),
    ):
        factor = _factor(a, b)
        if factor is None:
            return None
        if not factor.is_everything:
            factors.append(factor)
    return Relation(earlier_grid, later_grid, tuple(sorted(factors, key=Factor.order)))


def _all_of(guard: Interval) -> Interval:
    """What a guard is not empty against."""
    return replace(guard, low=Linear((), guard.begin), size=guard.end - guard.begin)


def _factor(a: Interval, b: Interval) -> Factor | None:
    """How two intervals of one digit meet."""
    first, second = variable_of(a.low), variable_of(b.low)
    if first is None or second is None:
        return None
    band = Band.of(
        (first[1], a.low.constant, a.size),
        (second[1], b.low.constant, b.size),
        (0, first[0].size),
        (0, second[0].size),
        (max(a.begin, b.begin), min(a.end, b.end)),
    )
    return Factor(first[0], second[0], band)


def union(relations: Iterable[Relation]) -> Relation | None:
    """All pairs of several relations of the same grids; None where that is no product of bands."""
    kept: list[Relation] = []
    for relation in relations:
        if not any(other.contains(relation) for other in kept):
            kept = [other for other in kept if not relation.contains(other)]
            kept.append(relation)
    while len(kept) > 1:
        joined = _joined(kept[-2], kept[-1])
        if joined is None:
            return None
        kept[-2:] = [joined]
    return kept[0]


def _joined(one: Relation, other: Relation) -> Relation | None:
    """Two relations that differ in one band only, and there by adjoining bands."""
    if len(one.factors) != len(other.factors):
        return None
    factors: list[Factor] = []
    different = 0
    for a, b in zip(one.factors, other.factors, strict=True):
        if (a.earlier, a.later) != (b.earlier, b.later):
            return None
        band = a.band.union(b.band)
        if band is None:
            return None
        different += a != b
        factors.append(replace(a, band=band))
    if different > 1:
        return None
    return replace(one, factors=tuple(f for f in factors if not f.is_everything))
