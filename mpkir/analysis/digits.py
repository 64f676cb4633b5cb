"""Affine expressions of a grid index as sums of its digits.

`d0 * 4`, `d0 floordiv 8` and `(d1 mod 8) * 16 + 3` are sums of digits of the grid's coordinates in
mixed radices, each with a factor. What depends on different digits is independent: that makes boxes
of tasks products of intervals, of which each depends on a number of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from xdsl.ir.affine import (
    AffineBinaryOpExpr,
    AffineBinaryOpKind,
    AffineConstantExpr,
    AffineDimExpr,
    AffineExpr,
)


@dataclass(frozen=True, order=True)
class Digit:
    """`(d floordiv step) mod size` of grid dimension `dim`.

    step * size divides the length of that dimension, so that every value comes equally often and
    together with every value of the dimension's other digits.
    """

    dim: int
    step: int
    size: int

    def meets(self, other: Digit) -> bool:
        """Whether the two depend on each other."""
        return (
            self.dim == other.dim
            and self.step < other.step * other.size
            and other.step < self.step * self.size
        )


@dataclass(frozen=True)
class Linear:
    """`constant + sum(factor * digit)`; every digit once, none with factor 0 or size 1."""

    terms: tuple[tuple[Digit, int], ...]
    constant: int

    @classmethod
    def of(cls, terms: Iterable[tuple[Digit, int]], constant: int = 0) -> Linear:
        """The sum with its terms in order."""
        factors: dict[Digit, int] = {}
        for digit, factor in terms:
            factors[digit] = factors.get(digit, 0) + factor
        kept = sorted((d, f) for d, f in factors.items() if f and d.size > 1)
        return cls(tuple(kept), constant)

    @property
    def least(self) -> int:
        """The least value, at the latest if the digits are independent a sharp bound."""
        return self.constant + sum(f * (d.size - 1) for d, f in self.terms if f < 0)

    @property
    def greatest(self) -> int:
        """The greatest value, likewise."""
        return self.constant + sum(f * (d.size - 1) for d, f in self.terms if f > 0)

    def __add__(self, other: Linear | int) -> Linear:
        if isinstance(other, int):
            return Linear(self.terms, self.constant + other)
        return Linear.of((*self.terms, *other.terms), self.constant + other.constant)

    def __mul__(self, factor: int) -> Linear:
        return Linear.of(((d, f * factor) for d, f in self.terms), self.constant * factor)

    def split(self, divisor: int) -> tuple[Linear, Linear] | None:
        """Quotient, rounded down, and remainder; None where they are no sums of digits."""
        whole, constant = divmod(self.constant, divisor)
        quotient = [(d, f // divisor) for d, f in self.terms if f % divisor == 0]
        rest = Linear.of([(d, f) for d, f in self.terms if f % divisor], constant)
        if rest.least >= 0 and rest.greatest < divisor:
            return Linear.of(quotient, whole), rest
        # The digit with the greatest factor is cut in two; the others must stay below it.
        digit, factor = max(rest.terms, key=lambda term: term[1])
        below = Linear.of([t for t in rest.terms if t[0] != digit], constant)
        radix = divisor // factor if factor > 0 and divisor % factor == 0 else 0
        if not radix or digit.size % radix or below.least < 0 or below.greatest >= factor:
            return None
        high = Digit(digit.dim, digit.step * radix, digit.size // radix)
        low = Digit(digit.dim, digit.step, radix)
        return Linear.of([*quotient, (high, 1)], whole), below + Linear.of([(low, factor)])


def linear_of(expression: AffineExpr, grid: Sequence[int]) -> Linear | None:
    """An expression of a grid's coordinates as a sum of digits, if it is one."""
    match expression:
        case AffineConstantExpr():
            return Linear((), expression.value)
        case AffineDimExpr():
            at = expression.position
            return Linear.of([(Digit(at, 1, grid[at]), 1)])
        case AffineBinaryOpExpr():
            lhs, rhs = linear_of(expression.lhs, grid), linear_of(expression.rhs, grid)
            return None if lhs is None or rhs is None else _combine(expression.kind, lhs, rhs)
        case _:
            return None


def _combine(kind: AffineBinaryOpKind, lhs: Linear, rhs: Linear) -> Linear | None:
    if kind is AffineBinaryOpKind.Add:
        return lhs + rhs
    if rhs.terms:
        lhs, rhs = rhs, lhs
        if rhs.terms or kind is not AffineBinaryOpKind.Mul:
            return None
    number = rhs.constant
    if kind is AffineBinaryOpKind.Mul:
        return lhs * number
    if number < 1:
        return None
    parts = (lhs + (number - 1) if kind is AffineBinaryOpKind.CeilDiv else lhs).split(number)
    if parts is None:
        return None
    return parts[1] if kind is AffineBinaryOpKind.Mod else parts[0]


@dataclass(frozen=True)
class Variable:
    """A number from 0 to size - 1 made of independent digits, the most significant first."""

    digits: tuple[Digit, ...]

    @property
    def size(self) -> int:
        """How many values it has; 1 without digits."""
        return prod(digit.size for digit in self.digits)

    def expression(self, grid: Sequence[int]) -> AffineExpr:
        """The number as an expression of a grid's coordinates."""
        result: AffineExpr = AffineExpr.constant(0)
        place = self.size
        for digit in _joined(self.digits):
            place //= digit.size
            part: AffineExpr = AffineExpr.dimension(digit.dim)
            if digit.step > 1:
                part = part // digit.step
            if digit.step * digit.size < grid[digit.dim]:
                part = part % digit.size
            result = result + part * place
        return result


def _joined(digits: Iterable[Digit]) -> list[Digit]:
    """The same digits, adjacent ones of a dimension as one."""
    result: list[Digit] = []
    for digit in digits:
        if result and result[-1].dim == digit.dim and result[-1].step == digit.step * digit.size:
            digit = Digit(digit.dim, digit.step, digit.size * result.pop().size)
        result.append(digit)
    return result


def variable_of(linear: Linear) -> tuple[Variable, int] | None:
    """The variable t and the step s > 0 for which `linear` is s * t + its constant, if any."""
    if not linear.terms:
        return Variable(()), 1
    terms = sorted(linear.terms, key=lambda term: -term[1])
    place = terms[-1][1]
    for digit, factor in reversed(terms):
        if factor != place or factor < 1:
            return None
        place *= digit.size
    digits = tuple(digit for digit, _ in terms)
    if not independent(digits):
        return None
    return Variable(digits), terms[-1][1]


def independent(digits: Sequence[Digit]) -> bool:
    """Whether no two of these depend on each other."""
    return not any(a.meets(b) for i, a in enumerate(digits) for b in digits[:i])
