"""Time of a step by operator: how far each family moved the last result on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from mpkir.analysis.families import Family, Ints
from mpkir.analysis.task_times import Floats


def operator_of(family: Family) -> str:
    """What families of equal operators in different layers are called: `layers.*.mlp`."""
    return re.sub(r"\d+", "*", family.name)


def advances(end: Floats, offsets: Ints) -> Floats:
    """How much later than all families before it in linear order each family's last task ended;
    [families]. They add up to the step's time, and what runs beside others counts nothing.
    """
    lasts = np.array([end[a:b].max(initial=0.0) for a, b in pairwise(offsets.tolist())])
    return np.diff(np.maximum.accumulate(lasts), prepend=0.0)


def by_operator(families: Sequence[Family], values: Floats) -> dict[str, float]:
    """Sums over the families of each operator, in order of appearance."""
    result: dict[str, float] = {}
    for family, value in zip(families, values.tolist(), strict=True):
        name = operator_of(family)
        result[name] = result.get(name, 0.0) + value
    return result
