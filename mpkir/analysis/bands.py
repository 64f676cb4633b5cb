"""Which intervals of two regular rows overlap: in closed form, however long the rows are.

Interval t of the first row is [c*t + o, c*t + o + s), interval u of the second
[d*u + p, d*u + p + r). They share an element where o - p - r < d*u - c*t < o + s - p. So the pairs
that overlap are the integer points of a *band* `alpha < d*u - c*t <= beta`, and division by
gcd(c, d) makes c and d coprime. Then the band repeats every d intervals of the first row and c of
the second, and has beta - alpha points in each period. Bounds of buffers only cut the ranges of t
and u.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from math import gcd

import numpy as np
from xdsl.ir.affine import AffineExpr

from mpkir.analysis.families import Ints

Range = tuple[int, int]
"""First number and end, exclusive."""

MAX_BREAKS = 4
"""Components that begin at more places than this, of a period or of a shorter row, get coarser
labels.
"""


@dataclass(frozen=True)
class Floors:
    """The function `constant + sum((factor * t + shift) floordiv divisor)` of a number t."""

    terms: tuple[tuple[int, int, int], ...]
    """factor, shift, divisor of each."""
    constant: int = 0

    def __call__(self, t: int) -> int:
        return self.constant + sum((f * t + s) // d for f, s, d in self.terms)

    def plus(self, constant: int) -> Floors:
        """The function with something added."""
        if len(self.terms) == 1:
            # It goes into the only term, where it costs nothing.
            (factor, shift, divisor), constant = self.terms[0], constant + self.constant
            return Floors(((factor, shift + constant * divisor, divisor),))
        return Floors(self.terms, self.constant + constant)

    def of_all(self, count: int) -> Ints:
        """Its values for all numbers from 0 to count - 1."""
        numbers = np.arange(count, dtype=np.int64)
        result = np.full(count, self.constant, np.int64)
        for factor, shift, divisor in self.terms:
            result += (factor * numbers + shift) // divisor
        return result

    def expression(self, number: AffineExpr) -> AffineExpr:
        """Its value for an expression of grid coordinates."""
        result: AffineExpr = AffineExpr.constant(self.constant)
        for factor, shift, divisor in self.terms:
            inner = number * factor + shift
            result = result + (inner // divisor if divisor > 1 else inner)
        return result


@dataclass(frozen=True)
class Labels:
    """Numbers for both rows: t and u of a pair have the same."""

    earlier: Floors
    later: Floors
    period: int
    """Labels in a period of the band."""


@dataclass(frozen=True)
class Band:
    """The pairs (t, u) with alpha < later * u - earlier * t <= beta, t and u in their ranges."""

    earlier: int
    later: int
    alpha: int
    beta: int
    t: Range
    u: Range

    @classmethod
    def of(
        cls,
        earlier: tuple[int, int, int],
        later: tuple[int, int, int],
        t: Range,
        u: Range,
        bounds: Range,
    ) -> Band:
        """The overlap, inside `bounds`, of two rows: step, first element, size of the intervals."""
        (c, o, s), (d, p, r) = earlier, later
        begin, end = bounds
        common = gcd(c, d)
        band = cls(
            c // common,
            d // common,
            (o - p - r) // common,
            (o + s - p - 1) // common,
            _cut(t, -((begin - o - s + 1) // -c), -((o - end) // c)),
            _cut(u, -((begin - p - r + 1) // -d), -((p - end) // d)),
        )
        return band._trimmed()

    def _trimmed(self) -> Band:
        """The same pairs, with ranges cut to what can be in one."""
        band = self if self.width > 0 else replace(self, t=(0, 0))
        while band.t[0] < band.t[1] and band.u[0] < band.u[1]:
            c, d = band.earlier, band.later
            (t0, t1), (u0, u1) = band.t, band.u
            shorter = replace(
                band,
                t=_cut(band.t, -((band.beta - d * u0) // c), -((band.alpha - d * (u1 - 1)) // c)),
                u=_cut(band.u, (c * t0 + band.alpha) // d + 1, (c * (t1 - 1) + band.beta) // d + 1),
            )
            if shorter == band:
                return band._plain() if band.complete else band
            band = shorter
        return replace(band, t=(0, 0), u=(0, 0))

    def _plain(self) -> Band:
        """The same complete band, in the one form that does not depend on where it came from."""
        return Band(1, 1, self.u[0] - self.t[1], self.u[1] - 1 - self.t[0], self.t, self.u)

    @property
    def width(self) -> int:
        """Points in a period."""
        return self.beta - self.alpha

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        (t0, t1), (u0, u1) = self.t, self.u
        if t0 >= t1 or u0 >= u1:
            return 0
        return self._below(self.beta) - self._below(self.alpha)

    def _below(self, gamma: int) -> int:
        """The sum over all t of how many u, plus u[0], have later * u - earlier * t <= gamma."""
        (t0, t1), (u0, u1) = self.t, self.u
        c, d = self.earlier, self.later
        # Before `low` none of them, from `high` on all.
        low = min(max(-((gamma - d * u0) // c), t0), t1)
        high = min(max(-((gamma - d * (u1 - 1)) // c), low), t1)
        inside = floor_sum(high - low, c, c * low + gamma, d) + (high - low)
        return u0 * (low - t0) + inside + u1 * (t1 - high)

    @property
    def complete(self) -> bool:
        """Whether every t in range goes with every u in range."""
        (t0, t1), (u0, u1) = self.t, self.u
        first, last = self.later * u0 - self.earlier * (t1 - 1), self.later * (u1 - 1)
        return self.alpha < first and last - self.earlier * t0 <= self.beta

    def contains(self, other: Band) -> bool:
        """Whether all pairs of another band are in this one; False where it is not plain."""
        if not _inside(other.t, self.t) or not _inside(other.u, self.u):
            return False
        if self.complete:
            return True
        return (
            (self.earlier, self.later) == (other.earlier, other.later)
            and self.alpha <= other.alpha
            and other.beta <= self.beta
        )

    def union(self, other: Band) -> Band | None:
        """The pairs of both, if they are a band and that is plain."""
        if self.contains(other):
            return self
        if other.contains(self):
            return other
        same = (self.earlier, self.later, self.t, self.u) == (
            other.earlier,
            other.later,
            other.t,
            other.u,
        )
        low, high = sorted((self, other), key=lambda band: band.alpha)
        if not same or high.alpha > low.beta:
            return None
        return replace(low, beta=max(low.beta, high.beta))._trimmed()

    def holds(self, t: int, u: int) -> bool:
        """Whether a pair is in the band."""
        return (
            self.t[0] <= t < self.t[1]
            and self.u[0] <= u < self.u[1]
            and self.alpha < self.later * u - self.earlier * t <= self.beta
        )

    def labels(self) -> Labels | None:
        """Numbers of the connected components along the rows; None if there is only one.

        In the band's period c + d - width components begin, where what precedes t and u overlaps
        nothing from t and u on; none if that is not positive.
        """
        c, d, width = self.earlier, self.later, self.width
        if self.complete:
            return None
        if width <= c:
            # No u overlaps two of the first row: the component of each t is its own.
            return Labels(Floors(((1, 0, 1),)), Floors(((d, c - 1 - self.beta, c),)), d)
        if width <= d:
            return Labels(Floors(((c, self.beta, d),)), Floors(((1, 0, 1),)), c)
        firsts = self._firsts()
        if not firsts:
            return None
        return Labels(
            Floors(tuple((1, -t, d) for t in firsts)),
            Floors(tuple((1, -((c * t + self.alpha) // d) - 1, c) for t in firsts)),
            len(firsts),
        )

    def _firsts(self) -> list[int]:
        """Numbers t, different in the period, with which components after the first begin.

        Only those in range tell tasks apart. There they are all, or MAX_BREAKS of them in even
        steps.
        """
        c, d = self.earlier, self.later
        breaks = c + d - self.width
        begin = self.t[0] + 1
        end = min(self.t[1], begin + d)

        def begun(stop: int) -> int:
            # A component begins with t where c * t + alpha leaves a remainder below `breaks`.
            count, shift = stop - begin, c * begin + self.alpha
            return floor_sum(count, c, shift, d) - floor_sum(count, c, shift - breaks, d)

        found = begun(end) if breaks > 0 else 0
        kept = min(found, MAX_BREAKS)
        stops = range(begin, end + 1)
        ordinals = (i * found // kept + 1 for i in range(kept))
        return sorted((stops[bisect_left(stops, n, key=begun)] - 1) % d for n in ordinals)


def _cut(whole: Range, begin: int, end: int) -> Range:
    return max(whole[0], begin), min(whole[1], end)


def _inside(inner: Range, outer: Range) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def floor_sum(count: int, factor: int, shift: int, divisor: int) -> int:
    """The sum of (factor * i + shift) floordiv divisor for i from 0 to count - 1.

    The descent of Euclid's algorithm, as in Graham, Knuth and Patashnik, Concrete Mathematics, 3.5.
    """
    result = 0
    while count > 0:
        whole, factor = divmod(factor, divisor)
        result += whole * count * (count - 1) // 2
        whole, shift = divmod(shift, divisor)
        result += whole * count
        top = factor * count + shift
        if top < divisor:
            break
        # Count the lattice points below the line by the other axis.
        count, shift = divmod(top, divisor)
        factor, divisor = divisor, factor
    return result
