"""Affine maps that give each task of a grid its group, where such a map exists.

They have the form `sum_k step_k * (((d_k + e_k) floordiv m_k) mod r_k) + c`, or with a few steps at
any places in the part of a dimension.
"""

from __future__ import annotations

from math import prod

import numpy as np
from xdsl.ir.affine import AffineExpr, AffineMap

from mpkir.analysis.families import Ints, coordinates_of, evaluate

MAX_JUMPS = 16
"""Steps in the part of one dimension that is no run of equal steps."""


def constant_map(rank: int, value: int = 0) -> AffineMap:
    """Every task in one group."""
    return AffineMap(rank, 0, (AffineExpr.constant(value),))


def fit(labels: Ints, grid: tuple[int, ...], groups: int) -> AffineMap | None:
    """A map from grid coordinates to these labels, exact wherever a label is not -1, or None.

    A task labelled -1 may come into any of the `groups`.
    """
    known = labels >= 0
    if not known.any():
        return constant_map(len(grid))
    if groups == 1:
        return constant_map(len(grid))
    points = np.where(known, labels, 0).reshape(grid)
    mask = known.reshape(grid)
    expression: AffineExpr = AffineExpr.constant(0)
    # Read each dimension's part along the line through the first known task.
    origin = tuple(int(c) for c in coordinates_of(grid)[int(known.argmax())])
    base = int(points[origin])
    for dim in range(len(grid)):
        line = tuple(slice(None) if d == dim else origin[d] for d in range(len(grid)))
        part = _fit_line(points[line] - base, mask[line], origin[dim], dim)
        if part is None:
            return None
        expression, base = expression + part[0], base - part[1]
    map = AffineMap(len(grid), 0, ((expression + base),))
    values = evaluate(map, coordinates_of(grid))[:, 0]
    assert len(values) == prod(grid)
    if (values[known] != labels[known]).any() or values.min() < 0 or values.max() >= groups:
        return None
    return map


def _fit_line(
    values: Ints, known: np.ndarray[tuple[int], np.dtype[np.bool_]], origin: int, dim: int
) -> tuple[AffineExpr, int] | None:
    """One dimension's part and its value at the origin."""
    where = np.flatnonzero(known)
    given = values[where]
    if (given == given[0]).all():
        return AffineExpr.constant(0), 0
    d = AffineExpr.dimension(dim)
    changes = np.flatnonzero(np.diff(given)) + 1
    step = int(given[changes[0]] - given[0])
    # Where tasks have no label a run may end earlier than the next begins; the first run may be
    # shorter than the second, if the line does not begin with it.
    first = list(range(int(where[changes[0]]), int(where[changes[0] - 1]), -1))
    runs = [(length, 0) for length in first]
    if len(changes) > 1:
        length = int(where[changes[1]] - where[changes[0]])
        runs += [(length, (-place) % length) for place in (*first, 0)]
    for divisor, shift in dict.fromkeys(runs):
        inner = (d + shift) // divisor if divisor > 1 else d + shift
        quotient = (where + shift) // divisor
        at = (origin + shift) // divisor
        if np.array_equal(step * (quotient - quotient[0]) + given[0], given):
            return inner * step, step * at
        again = np.flatnonzero((given == given[0]) & (quotient > quotient[0]))
        if len(again):
            period = int(quotient[again[0]] - quotient[0])
            digit = quotient % period
            if np.array_equal(step * (digit - digit[0]) + given[0], given):
                return (inner % period) * step, step * (at % period)
    return _jumps(given, where, len(known), origin, d)


def _jumps(
    given: Ints, where: Ints, length: int, origin: int, d: AffineExpr
) -> tuple[AffineExpr, int] | None:
    """A sum of steps, each 0 before a place and 1 from there on, if there are few."""
    changes = np.flatnonzero(np.diff(given)) + 1
    if len(changes) > MAX_JUMPS:
        return None
    result: AffineExpr = AffineExpr.constant(0)
    at_origin = 0
    for change in changes.tolist():
        height, place = int(given[change] - given[change - 1]), int(where[change])
        result = result + (d + (length - place)) // length * height
        at_origin += height * (origin >= place)
    return result, at_origin
