"""Counters for conflicts that have no closed form, from the boxes of all tasks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from xdsl.ir.affine import AffineMap

from mpkir.analysis.counters import Counters
from mpkir.analysis.dependence import Conflict, components
from mpkir.analysis.families import Ints, evaluate
from mpkir.analysis.labels import constant_map, fit
from mpkir.analysis.task_pairs import pairs_of


def task_counters_of(conflict: Conflict) -> Counters:
    """One counter for each group of tasks without conflicts across, if affine maps can say which
    group a task is in; else one for as few consecutive groups as they can tell apart.
    """
    earlier, later = conflict.earlier, conflict.later
    signals, waits, groups = components(conflict)
    for signal, wait, count in _maps(signals, waits, groups, conflict):
        arrivals = np.bincount(_of_tasks(signal, earlier.coordinates), minlength=count)
        if arrivals.min() > 0:
            break
    else:
        raise AssertionError("one counter takes the signals of all tasks")
    waiting = np.bincount(_of_tasks(wait, later.coordinates), minlength=count)
    same = len(set(arrivals.tolist())) == 1
    return Counters(
        signal,
        wait,
        count,
        int(arrivals[0]) if same else tuple(arrivals.tolist()),
        int(arrivals @ waiting),
        pairs_of(conflict),
        bool(waiting.min()),
    )


def _of_tasks(map: AffineMap, coordinates: Ints) -> Ints:
    return evaluate(map, coordinates)[:, 0]


def _maps(
    signals: Ints, waits: Ints, groups: int, conflict: Conflict
) -> Iterator[tuple[AffineMap, AffineMap, int]]:
    """Maps that give both families' tasks their groups, from the finest groups to a single one."""
    earlier, later = conflict.earlier.op.grid, conflict.later.op.grid
    for length in range(1, groups):
        # Groups of which the last would be alone with few others are not better than fewer ones.
        count = -(-groups // length)
        if length > 1 and count == -(-groups // (length - 1)):
            continue
        signal = fit(np.where(signals < 0, -1, signals // length), earlier, count)
        wait = fit(np.where(waits < 0, -1, waits // length), later, count)
        if signal is not None and wait is not None:
            yield signal, wait, count
    yield constant_map(len(earlier)), constant_map(len(later)), 1
