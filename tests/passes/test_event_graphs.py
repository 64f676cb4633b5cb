"""Random event graphs, forks and joins of families by all sorts of maps, through each pass: which
tasks come before which, by the closure of single tasks.
"""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import ArrayAttr, ModuleOp
from xdsl.ir import Block, Region
from xdsl.ir.affine import AffineExpr, AffineMap
from xdsl.parser import Parser
from xdsl.passes import ModulePass

from mpkir.analysis.event_use import event_use_of
from mpkir.analysis.families import evaluate, families_of
from mpkir.dialects import event, task
from mpkir.passes.eliminate_dependencies import EliminateDependenciesPass
from mpkir.passes.event_graph import EventGraph
from mpkir.passes.event_order import EventOrder
from mpkir.passes.fuse_events import FuseEventsPass
from mpkir.passes.linearize_tasks import LinearizeTasksPass
from mpkir.passes.merge_events import MergeEventsPass
from mpkir.passes.normalize_events import NormalizeEventsPass
from mpkir.pipeline import context

GRIDS = [(1,), (2,), (3,), (4,), (6,), (2, 1), (2, 2), (3, 2)]


def linear(grid: tuple[int, ...]) -> AffineExpr:
    """The row-major number of a task."""
    index: AffineExpr = AffineExpr.constant(0)
    for dim, size in enumerate(grid):
        index = index * size + AffineExpr.dimension(dim)
    return index


@st.composite
def maps(draw: st.DrawFn, grid: tuple[int, ...], counters: int, *, onto: bool) -> AffineMap:
    """A counter for each task; `onto`: every counter gets one, which takes as many tasks."""
    tasks, index = prod(grid), linear(grid)
    choices = [index % counters]
    if tasks % counters == 0:
        choices.append(index // (tasks // counters))
    if not onto:
        choices.append(AffineExpr.constant(draw(st.integers(0, counters - 1))))
        if len(grid) > 1 and grid[1] <= counters:
            choices.append(AffineExpr.dimension(1))
    return AffineMap(len(grid), 0, (draw(st.sampled_from(choices)),))


@st.composite
def graphs(draw: st.DrawFn) -> str:
    """A module's text: families, and event tensors that some signal and later ones wait for."""
    grids = draw(st.lists(st.sampled_from(GRIDS), min_size=2, max_size=7))
    waits: list[list[event.EdgeAttr]] = [[] for _ in grids]
    signals: list[list[event.EdgeAttr]] = [[] for _ in grids]
    tensors: list[event.TensorOp] = []
    for number in range(draw(st.integers(1, 6))):
        cut = draw(st.integers(1, len(grids) - 1))
        sources = draw(st.lists(st.integers(0, cut - 1), min_size=1, max_size=3, unique=True))
        sinks = draw(
            st.lists(st.integers(cut, len(grids) - 1), min_size=1, max_size=3, unique=True)
        )
        first = grids[sources[0]]
        counters = draw(st.integers(1, min(3, prod(first))))
        name = f"e{number}"
        arrivals = np.zeros(counters, np.int64)
        for family in sources:
            grid = grids[family]
            map = draw(maps(grid, counters, onto=family == sources[0]))
            signals[family].append(event.EdgeAttr(name, map))
            for coordinates in np.ndindex(*grid):
                arrivals[map.eval(list(coordinates), [])[0]] += 1
        for family in sinks:
            map = draw(maps(grids[family], counters, onto=False))
            waits[family].append(event.EdgeAttr(name, map))
        tensors.append(event.TensorOp(name, counters, arrivals.tolist()))
    block = Block(tensors)
    for number, grid in enumerate(grids):
        op = task.GridOp(f"f{number}", grid, [], [], [], Block([task.YieldOp()]))
        op.waits = ArrayAttr(waits[number]) if waits[number] else None
        op.signals = ArrayAttr(signals[number]) if signals[number] else None
        block.add_op(op)
    block.add_op(func.ReturnOp())
    return str(ModuleOp([func.FuncOp("step", ((), ()), Region(block))]))


def parse(text: str) -> ModuleOp:
    return Parser(context(), text).parse_module()


Pairs = set[tuple[tuple[str, int], tuple[str, int]]]


def ordered(module: ModuleOp) -> Pairs:
    """Tasks of the families f0, f1, .. that edges order, transitively."""
    families = families_of(module)
    names = [(f.name, i) for f in families for i in range(f.size)]
    number = {name: n for n, name in enumerate(names)}
    uses: dict[bool, dict[tuple[str, int], set[int]]] = {True: {}, False: {}}
    for family in families:
        for is_wait, edges in ((True, family.op.waits), (False, family.op.signals)):
            for edge in edges or ():
                counters = evaluate(edge.index.data, family.coordinates)[:, 0]
                for i, counter in enumerate(counters.tolist()):
                    known = uses[is_wait].setdefault((edge.symbol, counter), set())
                    known.add(number[family.name, i])
    before = np.zeros((len(names), len(names)), bool)
    for key, waiting in uses[True].items():
        for a, b in product(uses[False][key], waiting):
            before[a, b] = True
    for middle in range(len(names)):
        before |= before[:, middle, None] & before[None, middle, :]
    assert not before.diagonal().any()
    return {
        (names[a], names[b])
        for a, b in np.argwhere(before)
        if ".join" not in names[a][0] + names[b][0]
    }


def check_counters(module: ModuleOp) -> None:
    """Each counter gets its arrivals from signals, each task has what its edges name."""
    found = {
        op.sym_name.data: np.zeros(op.counters.value.data, np.int64)
        for op in module.walk()
        if isinstance(op, event.TensorOp)
    }
    for family in families_of(module):
        for edge in family.op.signals or ():
            np.add.at(found[edge.symbol], evaluate(edge.index.data, family.coordinates)[:, 0], 1)
    for op in module.walk():
        if isinstance(op, event.TensorOp):
            assert tuple(found[op.sym_name.data]) == op.arrivals_of_each


def counters_of(module: ModuleOp) -> int:
    return sum(op.counters.value.data for op in module.walk() if isinstance(op, event.TensorOp))


def edges_of(module: ModuleOp) -> int:
    return sum(
        len(family.op.waits or ()) + len(family.op.signals or ()) for family in families_of(module)
    )


def apply(module: ModuleOp, *passes: ModulePass) -> ModuleOp:
    for each in passes:
        each.apply(Context(), module)
        module.verify()
        check_counters(module)
    return module


def place_of_tasks(module: ModuleOp) -> dict[tuple[str, int], int]:
    """Where each task stands in the linear order."""
    result: dict[tuple[str, int], int] = {}
    for family in families_of(module):
        first, order = family.op.first, family.op.order
        assert first is not None
        for i in range(family.size):
            place = first.value.data + i if order is None else order.get_values()[i]
            result[family.name, i] = int(place)
    return result


def released_by_events(module: ModuleOp) -> list[list[tuple[str, int]]]:
    """The tasks that wait for each counter."""
    result: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for family in families_of(module):
        for edge in family.op.waits or ():
            counters = evaluate(edge.index.data, family.coordinates)[:, 0]
            for i, counter in enumerate(counters.tolist()):
                result.setdefault((edge.symbol, counter), []).append((family.name, i))
    return list(result.values())


random_graphs = settings(
    suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=40
)


@given(graphs())
@random_graphs
def test_order_by_classes_is_that_of_tasks(text: str):
    module = parse(text)
    assert EventOrder(EventGraph.read(module)).pairs() == len(ordered(module))


@given(graphs())
@random_graphs
def test_fusion_orders_the_same_tasks_in_fewer_events(text: str):
    module = parse(text)
    before, counters = ordered(module), counters_of(module)
    apply(module, FuseEventsPass())
    assert ordered(module) == before
    assert counters_of(module) <= counters
    EventGraph.read(module).order()
    fused = str(module)
    assert str(apply(module, FuseEventsPass())) == fused


@given(graphs())
@random_graphs
def test_merging_orders_the_same_tasks_in_fewer_events(text: str):
    module = parse(text)
    before, counters = ordered(module), counters_of(module)
    apply(module, MergeEventsPass())
    assert ordered(module) == before
    assert counters_of(module) <= counters
    EventGraph.read(module).order()


@given(graphs())
@random_graphs
def test_elimination_leaves_no_wait_that_others_imply(text: str):
    module = parse(text)
    before, edges = ordered(module), edges_of(module)
    apply(module, EliminateDependenciesPass())
    assert ordered(module) == before
    assert edges_of(module) <= edges
    for family in families_of(module):
        kept = family.op.waits
        for edge in kept or ():
            family.op.waits = ArrayAttr([other for other in kept if other is not edge])
            assert ordered(module) != before
        family.op.waits = kept


def unheard_joins(module: ModuleOp) -> list[str]:
    """Families of joins some of whose tasks signal what nobody waits for."""
    use = event_use_of(module, families_of(module))
    if use is None:
        return []
    awaited = np.zeros(use.counters, bool)
    for each in use.waits:
        awaited[each.counter] = True
    silent = {each.family for each in use.signals if not awaited[each.counter].all()}
    return [use.families[n].name for n in sorted(silent) if ".join" in use.families[n].name]


@given(graphs())
@random_graphs
def test_normalized_tasks_have_one_wait_and_one_signal(text: str):
    module = parse(text)
    before = ordered(module)
    apply(module, NormalizeEventsPass())
    assert ordered(module) >= before
    for family in families_of(module):
        assert len(family.op.waits or ()) <= 1
        assert len(family.op.signals or ()) <= 1
    assert not unheard_joins(module)


@given(graphs())
@random_graphs
def test_the_whole_way(text: str):
    module = parse(text)
    before = ordered(module)
    apply(
        module,
        FuseEventsPass(),
        MergeEventsPass(),
        EliminateDependenciesPass(),
        NormalizeEventsPass(),
    )
    after = ordered(module)
    assert after >= before
    apply(module, LinearizeTasksPass())
    assert ordered(module) == after
    place = {family.name: family.number for family in families_of(module)}
    assert all(place[a] < place[b] for (a, _), (b, _) in after)
    tasks = place_of_tasks(module)
    assert sorted(tasks.values()) == list(range(len(tasks)))
    assert all(tasks[a] < tasks[b] for a, b in after)
    for released in released_by_events(module):
        places = sorted(tasks[task] for task in released)
        assert places == list(range(places[0], places[0] + len(places)))
