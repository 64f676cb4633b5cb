"""Pairs of tasks that meet, in closed form and box by box, against sets of elements."""

from __future__ import annotations

from itertools import product
from math import prod
from time import process_time

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import MemRefType, bf16
from xdsl.ir.affine import AffineExpr, AffineMap

from mpkir.analysis.bands import MAX_BREAKS, Band, floor_sum
from mpkir.analysis.counters import Counters, counters_of
from mpkir.analysis.dependence import Conflict, conflicts_of, connected, touches_of
from mpkir.analysis.digits import Variable
from mpkir.analysis.element_sets import elements_of
from mpkir.analysis.families import Access, Family
from mpkir.analysis.orderings import orderings_of, step_orderings_of
from mpkir.analysis.regions import common_shape
from mpkir.analysis.relation import Relation, relation_of, union
from mpkir.analysis.task_counters import task_counters_of
from mpkir.dialects.task import BufferKind, BufferOp, RegionAttr, row_major

Pairs = set[tuple[int, int]]


def coordinates(grid: tuple[int, ...]) -> list[list[int]]:
    return [list(point) for point in product(*map(range, grid))]


def values(variable: Variable, grid: tuple[int, ...]) -> list[int]:
    map = AffineMap(len(grid), 0, (variable.expression(grid),))
    return [map.eval(point, [])[0] for point in coordinates(grid)]


def pairs_in(relation: Relation) -> Pairs:
    """All pairs of a relation, by the row-major numbers of the tasks."""
    grids = relation.earlier_grid, relation.later_grid
    result = set(product(range(prod(grids[0])), range(prod(grids[1]))))
    for factor in relation.factors:
        t, u = values(factor.earlier, grids[0]), values(factor.later, grids[1])
        result = {(i, j) for i, j in result if factor.band.holds(t[i], u[j])}
    return result


def check_counters(counters: Counters, grids: list[tuple[int, ...]], wanted: Pairs) -> None:
    """Tasks that conflict share a counter; arrivals and both figures are what they should be."""
    signals, waits = (
        [map.eval(point, [])[0] for point in coordinates(grid)]
        for map, grid in zip((counters.signal, counters.wait), grids, strict=True)
    )
    assert all(signals[i] == waits[j] for i, j in wanted)
    assert min(*signals, *waits) >= 0
    assert max(*signals, *waits) < counters.counters
    arrivals = np.bincount(signals, minlength=counters.counters)
    given_arrivals = counters.arrivals
    if isinstance(given_arrivals, int):
        given_arrivals = (given_arrivals,) * counters.counters
    assert arrivals.tolist() == list(given_arrivals)
    assert arrivals.min() > 0
    assert counters.ordered == sum(a == b for a in signals for b in waits)
    assert counters.needed == len(wanted)
    assert set(waits) == set(range(counters.counters)) or not counters.followed


def oracle(one: list[set[int]], other: list[set[int]]) -> Pairs:
    return {(i, j) for i, x in enumerate(one) for j, y in enumerate(other) if x & y}


def is_coarse(band: Band) -> bool:
    """Whether a band has more components than its labels tell apart, which MAX_BREAKS bounds."""
    pairs = [pair for pair in product(range(*band.t), range(*band.u)) if band.holds(*pair)]
    t, u = (np.array(each, np.int64) for each in zip(*pairs, strict=True))
    components = len(set(connected(band.t[1] + band.u[1], t, u + band.t[1])[t].tolist()))
    return band.width > max(band.earlier, band.later) and components > MAX_BREAKS + 1


def check_relation(
    relation: Relation, one: list[set[int]], other: list[set[int]]
) -> Counters | None:
    """It has the pairs with common elements, and counters as fine as can be; None without pairs."""
    grid, other_grid = relation.earlier_grid, relation.later_grid
    wanted = oracle(one, other)
    assert pairs_in(relation) == wanted
    assert relation.pairs == len(wanted)
    if not wanted:
        return None
    counters = counters_of(relation)
    check_counters(counters, [grid, other_grid], wanted)
    if any(is_coarse(factor.band) for factor in relation.factors):
        return counters
    # Tasks with the same counter that conflict with anybody are connected by conflicts.
    tasks = prod(grid)
    a, b = (np.array(each, np.int64) for each in zip(*sorted(wanted), strict=True))
    root = connected(tasks + prod(other_grid), a, b + tasks)
    groups: dict[int, set[int]] = {}
    for task in a.tolist():
        counter = counters.signal.eval(coordinates(grid)[task], [])[0]
        groups.setdefault(counter, set()).add(int(root[task]))
    assert all(len(group) == 1 for group in groups.values())
    return counters


@settings(max_examples=250)
@given(st.data(), st.sampled_from([24, 48]))
def test_closed_form_has_exactly_the_pairs_with_common_elements(
    accesses, elements, data: st.DataObject, size: int
):
    (one, grid), (other, other_grid) = data.draw(accesses(size)), data.draw(accesses(size))
    relation = relation_of(one, grid, other, other_grid)
    assume(relation is not None)
    check_relation(relation, elements(one, grid), elements(other, other_grid))


@given(st.data(), st.sampled_from([24, 48]))
def test_elements_of_all_tasks(accesses, elements, data: st.DataObject, size: int):
    access, grid = data.draw(accesses(size))
    other, other_grid = data.draw(accesses(size))
    shape = common_shape([access, other], size)
    sets = elements_of(access, grid, shape), elements_of(other, other_grid, shape)
    assume(None not in sets)
    one, two = (set().union(*elements(*each)) for each in ((access, grid), (other, other_grid)))

    def listed(boxes) -> list[int]:
        points = [p for low, high in boxes for p in product(*map(range, low, high))]
        return sorted(int(np.ravel_multi_index(p, shape)) for p in points)

    assert listed(sets[0].boxes) == sorted(one)
    assert listed(sets[0].without(sets[1]).boxes) == sorted(one - two)
    assert sets[0].meets(sets[1]) == bool(one & two)


@given(st.data())
def test_union_has_the_pairs_of_all(accesses, data: st.DataObject):
    found = [
        relation_of(*data.draw(accesses()), *data.draw(accesses()))
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    relations = [r for r in found if r is not None]
    assume(relations)
    alike = [
        r
        for r in relations
        if (r.earlier_grid, r.later_grid) == (relations[0].earlier_grid, relations[0].later_grid)
    ]
    both = union(alike)
    assume(both is not None)
    assert pairs_in(both) == set().union(*map(pairs_in, alike))


def tiles(
    shape: tuple[int, ...],
    grid: tuple[int, ...],
    offsets: list[AffineExpr | int],
    sizes: list[int],
    strides: tuple[int, ...] | None = None,
    offset: int = 0,
) -> tuple[Access, tuple[int, ...]]:
    """An access of a big buffer."""
    results = [AffineExpr.constant(o) if isinstance(o, int) else o for o in offsets]
    region = RegionAttr(AffineMap(len(grid), 0, tuple(results)), sizes)
    buffer = BufferOp(BufferKind.STATE, "b", MemRefType(bf16, [1 << 40]))
    return Access(buffer, shape, strides or row_major(shape), offset, region, False), grid


d0, d1 = AffineExpr.dimension(0), AffineExpr.dimension(1)
MEGA, GIGA = 10**6, 10**9


@pytest.mark.parametrize(
    ("one", "other", "counters"),
    [
        # Components begin at 8 places of a period of 12, of which the earlier row has one. The
        # tasks beyond the broadcast dimension's only element signal counters of their own.
        (
            tiles((1, 24), (2, 3), [d1, d0 * 13], [1, 13], (0, 1)),
            tiles((2, 2, 6), (3,), [d0, 0, 1], [1, 1, 6]),
            6,
        ),
        # At 6 places of 8, of which the row has 5: two of its 6 components share a counter.
        (tiles((48,), (6,), [d0 * 7 + 2], [5]), tiles((48,), (6,), [d0 * 8], [5]), 5),
    ],
)
def test_components_begin_at_many_places_of_a_period(elements, one, other, counters: int):
    relation = relation_of(*one, *other)
    assert relation is not None
    found = check_relation(relation, elements(*one), elements(*other))
    assert found is not None
    assert found.counters == counters


@pytest.mark.parametrize(
    ("one", "other", "pairs", "counters", "arrivals"),
    [
        # The same tiles.
        (
            tiles((16 * GIGA,), (GIGA,), [d0 * 16], [16]),
            tiles((16 * GIGA,), (GIGA,), [d0 * 16], [16]),
            GIGA,
            GIGA,
            1,
        ),
        # Tiles of 16 under heads of 128, through a reshape.
        (
            tiles((128 * MEGA,), (8 * MEGA,), [d0 * 16], [16]),
            tiles((MEGA, 128), (MEGA,), [d0, 0], [1, 128]),
            8 * MEGA,
            MEGA,
            8,
        ),
        # Heads of 128 cut in two by the later family.
        (
            tiles((128 * MEGA,), (8 * MEGA,), [d0 * 16], [16]),
            tiles((MEGA, 128), (2 * MEGA,), [d0 // 2, d0 % 2 * 64], [1, 64]),
            8 * MEGA,
            2 * MEGA,
            4,
        ),
        # Tiles of 5 and 3 over 10**9 + 8 elements; the last group differs, which takes a list.
        (
            tiles((GIGA + 8,), (200_000_002,), [d0 * 5], [5]),
            tiles((GIGA + 8,), (333_333_336,), [d0 * 3], [3]),
            466_666_670,
            None,
            None,
        ),
        # The transpose: rows against columns; all meet, each in one element.
        (
            tiles((MEGA, MEGA), (MEGA,), [d0, 0], [1, MEGA]),
            tiles((MEGA, MEGA), (MEGA,), [d0, 0], [1, MEGA], (1, MEGA)),
            MEGA * MEGA,
            1,
            MEGA,
        ),
        # Blocks against blocks of the transpose.
        (
            tiles((4096, 4096), (1024, 1024), [d0 * 4, d1 * 4], [4, 4]),
            tiles((4096, 4096), (512, 512), [d0 * 8, d1 * 8], [8, 8], (1, 4096)),
            1 << 20,
            1 << 18,
            4,
        ),
        # The keys' half of every row that one product writes; nobody waits for the other halves.
        (
            tiles((MEGA, 256), (MEGA, 16), [d0, d1 * 16], [1, 16]),
            tiles((MEGA, 128), (MEGA,), [d0, 0], [1, 128], (256, 1), 128),
            8 * MEGA,
            2 * MEGA,
            8,
        ),
    ],
)
def test_time_does_not_depend_on_the_number_of_tasks(one, other, pairs, counters, arrivals):
    begun = process_time()
    relation = relation_of(*one, *other)
    assert relation is not None
    assert relation.pairs == pairs
    assert process_time() - begun < 0.1
    if counters is None:
        return
    found = counters_of(relation)
    assert process_time() - begun < 0.1
    assert (found.counters, found.arrivals) == (counters, arrivals)
    assert found.needed == pairs


@given(st.integers(0, 30), st.integers(-9, 30), st.integers(-99, 99), st.integers(1, 12))
def test_floor_sum(count: int, factor: int, shift: int, divisor: int):
    assert floor_sum(count, factor, shift, divisor) == sum(
        (factor * i + shift) // divisor for i in range(count)
    )


def pairs_of_conflict(conflict: Conflict) -> Pairs:
    """All pairs of conflicting tasks, by the array method."""
    result: Pairs = set()
    for overlap in conflict.overlaps:
        a, b = overlap.earlier, overlap.later
        for i, j in zip(overlap.earlier_box.tolist(), overlap.later_box.tolist(), strict=True):
            tasks = a.boxes.tasks[a.box == i].tolist(), b.boxes.tasks[b.box == j].tolist()
            result |= set(product(*tasks))
    return result


def wanted_orderings(families: tuple[Family, ...], elements, steps: int) -> dict[object, Pairs]:
    """For families in one step, or in a step and the next, the pairs of tasks that meet by accesses
    of which some common element is not written in between.
    """
    sets = {
        (f.number, n): elements(access, f.op.grid)
        for f in families
        for n, access in enumerate(f.accesses)
    }
    line = [f for _ in range(steps) for f in families]
    result: dict[object, Pairs] = {}
    for (i, a), (j, b) in product(enumerate(line), enumerate(line)):
        if i >= j or (steps == 2 and not i < len(families) <= j):
            continue
        for (m, x), (n, y) in product(enumerate(a.accesses), enumerate(b.accesses)):
            if x.buffer is not y.buffer or not (x.is_write or y.is_write):
                continue
            one, other = sets[a.number, m], sets[b.number, n]
            alive = set().union(*one) & set().union(*other)
            for between in line[i + 1 : j]:
                for k, access in enumerate(between.accesses):
                    if access.buffer is x.buffer and access.is_write:
                        alive -= set().union(*sets[between.number, k])
            if alive:
                result.setdefault((a.number, b.number), set()).update(oracle(one, other))
    return result


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from([1, 2]))
def test_orderings_of_programs(families, elements, data: st.DataObject, steps: int):
    """Within a step and from step to step, in closed form and box by box."""
    program = data.draw(families())
    found = orderings_of(program) if steps == 1 else step_orderings_of(program)
    wanted = wanted_orderings(program, elements, steps)
    assert {(o.earlier.number, o.later.number) for o in found} == set(wanted)
    for ordering in found:
        pairs = wanted[ordering.earlier.number, ordering.later.number]
        assert pairs_of_conflict(ordering.conflict) == pairs
        assert ordering.pairs == len(pairs)
        if ordering.relation is not None:
            assert pairs_in(ordering.relation) == pairs
        grids = [ordering.earlier.op.grid, ordering.later.op.grid]
        check_counters(ordering.counters, grids, pairs)
        check_counters(task_counters_of(ordering.conflict), grids, pairs)
    if steps == 1:
        assert found_by_boxes(program) == wanted


def found_by_boxes(program: tuple[Family, ...]) -> dict[object, Pairs]:
    """The same by the array method alone."""
    return {
        (conflict.earlier.number, conflict.later.number): pairs_of_conflict(conflict)
        for conflict in conflicts_of(touches_of(program))
    }
