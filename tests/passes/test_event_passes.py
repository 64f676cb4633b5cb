"""Random programs through the passes of the event level: whatever conflicts stays ordered.

The oracle works on single tasks and elements: two tasks conflict if they touch a common element and
one writes it; the edges of a module order its tasks by their transitive closure.
"""

from __future__ import annotations

from itertools import product
from math import ceil, prod

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import (
    ArrayAttr,
    DenseArrayBase,
    FloatAttr,
    MemRefType,
    ModuleOp,
    TensorType,
    bf16,
    i64,
)
from xdsl.ir import Block, Region, SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap

from mpkir.analysis.families import evaluate, families_of
from mpkir.analysis.labels import constant_map
from mpkir.dialects import event, task, tensor
from mpkir.errors import MpkirError
from mpkir.passes.eliminate_dependencies import EliminateDependenciesPass
from mpkir.passes.fuse_events import FuseEventsPass
from mpkir.passes.linearize_tasks import LinearizeTasksPass
from mpkir.passes.lower_dependencies import LowerDependenciesPass
from mpkir.passes.merge_events import MergeEventsPass
from mpkir.passes.normalize_events import NormalizeEventsPass
from mpkir.passes.schedule_tasks import ScheduleTasksPass
from mpkir.passes.verify_schedule import VerifySchedulePass

VIEWS = [(12,), (3, 4), (2, 6), (4, 3)]
"""Shapes in which a buffer of 12 elements is seen."""

Box = tuple[tuple[int, ...], AffineMap, list[int]]
"""A view's shape, offsets, sizes."""


GRIDS = [(1,), (2,), (3,), (4,), (2, 1), (1, 3), (2, 2)]


def linear_index(grid: tuple[int, ...]) -> AffineExpr:
    """The row-major number of a task."""
    index: AffineExpr = AffineExpr.constant(0)
    for dim, size in enumerate(grid):
        index = index * size + AffineExpr.dimension(dim)
    return index


@st.composite
def tiles(draw: st.DrawFn, grid: tuple[int, ...]) -> Box:
    """Boxes of which no two tasks share an element: one dimension cut in as many parts as tasks."""
    tasks = prod(grid)
    shape = draw(st.sampled_from([view for view in VIEWS if max(view) >= tasks]))
    dim = draw(st.sampled_from([d for d, length in enumerate(shape) if length >= tasks]))
    sizes = list(shape)
    sizes[dim] = draw(st.integers(1, ceil(shape[dim] / tasks)))
    offsets = [AffineExpr.constant(0) for _ in shape]
    offsets[dim] = linear_index(grid) * sizes[dim]
    return shape, AffineMap(len(grid), 0, tuple(offsets)), sizes


@st.composite
def boxes(draw: st.DrawFn, grid: tuple[int, ...]) -> Box:
    """Any boxes."""
    shape = draw(st.sampled_from(VIEWS))
    offsets: list[AffineExpr] = []
    sizes: list[int] = []
    for length in shape:
        size = draw(st.integers(1, length))
        d = AffineExpr.dimension(draw(st.integers(0, len(grid) - 1)))
        choices = [AffineExpr.constant(draw(st.integers(0, length - 1))), d * size, d // 2 * size]
        offsets.append(draw(st.sampled_from(choices)))
        sizes.append(size)
    return shape, AffineMap(len(grid), 0, tuple(offsets)), sizes


@st.composite
def programs(draw: st.DrawFn) -> ModuleOp:
    """A step of two to six families on one to three states."""
    block = Block()
    buffers = [
        task.BufferOp(task.BufferKind.STATE, f"b{i}", MemRefType(bf16, [12]))
        for i in range(draw(st.integers(1, 3)))
    ]
    block.add_ops(buffers)
    views: dict[tuple[int, tuple[int, ...]], SSAValue] = {}

    def operand(buffer: int, box: Box) -> tuple[SSAValue, task.RegionAttr]:
        shape, offsets, sizes = box
        if (buffer, shape) not in views:
            block.add_op(view := task.ViewOp(buffers[buffer].result, shape))
            views[buffer, shape] = view.result
        return views[buffer, shape], task.RegionAttr(offsets, sizes)

    for number in range(draw(st.integers(2, 6))):
        grid = draw(st.sampled_from(GRIDS))
        written = draw(st.lists(st.integers(0, len(buffers) - 1), max_size=2, unique=True))
        writes = [operand(buffer, draw(tiles(grid))) for buffer in written]
        others = [buffer for buffer in range(len(buffers)) if buffer not in written]
        read = draw(st.lists(st.sampled_from(others), max_size=2)) if others else []
        reads = [operand(buffer, draw(boxes(grid))) for buffer in read]
        reads += draw(st.lists(st.sampled_from(writes), max_size=1)) if writes else []
        body = Block(arg_types=[_tile(box) for _, box in reads])
        results = [tensor.FullOp(FloatAttr(0.0, bf16), _tile(box)) for _, box in writes]
        body.add_ops([*results, task.YieldOp(*(op.result for op in results))])
        op = task.GridOp(
            f"f{number}",
            grid,
            [value for value, _ in reads],
            [value for value, _ in writes],
            [box for _, box in (*reads, *writes)],
            body,
        )
        block.add_op(op)
    block.add_op(func.ReturnOp())
    return ModuleOp([func.FuncOp("step", ((), ()), Region(block))])


def _tile(box: task.RegionAttr) -> TensorType:
    return TensorType(bf16, box.shape)


Touched = dict[tuple[str, int], tuple[set[tuple[str, int]], set[tuple[str, int]]]]
"""For each task, by family and index, the elements that it reads and those that it writes."""


def touched(module: ModuleOp) -> Touched:
    """What every task reads and writes, in the order of the grids."""
    result: Touched = {}
    for family in families_of(module):
        for index, coordinates in enumerate(family.coordinates):
            sets: tuple[set[tuple[str, int]], set[tuple[str, int]]] = (set(), set())
            for access in family.accesses:
                low = access.box.offsets_at([int(c) for c in coordinates])
                ranges = [
                    range(a, min(a + size, length))
                    for a, size, length in zip(low, access.box.shape, access.shape, strict=True)
                ]
                sets[access.is_write].update(
                    (access.buffer.sym.data, int(np.ravel_multi_index(i, access.shape)))
                    for i in product(*ranges)
                )
            result[family.name, index] = sets
    return result


Pairs = set[tuple[tuple[str, int], tuple[str, int]]]


def conflicts(module: ModuleOp) -> Pairs:
    """Tasks of different families that have to happen in this order."""
    tasks = list(touched(module).items())
    return {
        (a, b)
        for i, (a, (reads_a, writes_a)) in enumerate(tasks)
        for b, (reads_b, writes_b) in tasks[i + 1 :]
        if a[0] != b[0] and (writes_a & (reads_b | writes_b) or reads_a & writes_b)
    }


def ordered(module: ModuleOp) -> Pairs:
    """Tasks that edges within a step order, transitively; tasks without buffers are left out."""
    families = families_of(module)
    names = [(f.name, i) for f in families for i in range(f.size)]
    number = {name: n for n, name in enumerate(names)}
    signallers: dict[tuple[str, int], set[int]] = {}
    waiters: dict[tuple[str, int], set[int]] = {}
    for family in families:
        for edges, into in ((family.op.signals, signallers), (family.op.waits, waiters)):
            for edge in edges or ():
                if edge.lag.data:
                    continue
                counters = evaluate(edge.index.data, family.coordinates)[:, 0]
                for i, counter in enumerate(counters.tolist()):
                    key = (edge.symbol, counter)
                    into.setdefault(key, set()).add(number[family.name, i])
    before = np.zeros((len(names), len(names)), bool)
    for key, waiting in waiters.items():
        for a, b in product(signallers.get(key, ()), waiting):
            before[a, b] = True
    for middle in range(len(names)):
        before |= before[:, middle, None] & before[None, middle, :]
    assert not before.diagonal().any()
    joins = {f.name for f in families if not f.accesses and ".join" in f.name}
    return {
        (names[a], names[b])
        for a, b in np.argwhere(before)
        if names[a][0] not in joins and names[b][0] not in joins
    }


def check_counters(module: ModuleOp) -> None:
    """Arrivals of each counter are its signals."""
    signals: dict[str, np.ndarray] = {}
    tensors = {op.sym_name.data: op for op in module.walk() if isinstance(op, event.TensorOp)}
    for name, op in tensors.items():
        signals[name] = np.zeros(op.counters.value.data, np.int64)
    for family in families_of(module):
        for edge in family.op.signals or ():
            counters = evaluate(edge.index.data, family.coordinates)[:, 0]
            np.add.at(signals[edge.symbol], counters, 1)
    for name, op in tensors.items():
        assert tuple(signals[name]) == op.arrivals_of_each


def apply(module: ModuleOp, *passes) -> None:
    for each in passes:
        each.apply(Context(), module)
        module.verify()


@given(programs())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_conflicting_tasks_stay_ordered(module: ModuleOp):
    needed = conflicts(module)
    apply(module, LowerDependenciesPass())
    lowered = ordered(module)
    assert needed <= lowered
    check_counters(module)

    for each in (FuseEventsPass(), MergeEventsPass(), EliminateDependenciesPass()):
        apply(module, each)
        assert ordered(module) == lowered
        check_counters(module)

    apply(module, NormalizeEventsPass())
    normalized = ordered(module)
    assert lowered <= normalized
    check_counters(module)
    for family in families_of(module):
        assert len(family.op.waits or ()) <= 1
        assert len(family.op.signals or ()) <= 1

    apply(module, LinearizeTasksPass())
    assert ordered(module) == normalized
    assert conflicts(module) == needed


@given(programs(), st.integers(1, 5))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_what_the_passes_make_is_accepted(module: ModuleOp, workers: int):
    apply(
        module,
        LowerDependenciesPass(),
        FuseEventsPass(),
        MergeEventsPass(),
        EliminateDependenciesPass(),
        NormalizeEventsPass(),
        LinearizeTasksPass(),
        ScheduleTasksPass(workers=workers),
        VerifySchedulePass(),
    )


def is_safe(module: ModuleOp) -> bool:
    """Whether a scheduled module is right, by the closure over all tasks of two steps."""
    families = families_of(module)
    names = [(f.name, i) for f in families for i in range(f.size)]
    count = len(names)
    number = {name: n for n, name in enumerate(names)}
    arrivals = {
        (op.sym_name.data, counter): each
        for op in module.walk()
        if isinstance(op, event.TensorOp)
        for counter, each in enumerate(op.arrivals_of_each)
    }
    signals: dict[tuple[str, int], list[int]] = {key: [] for key in arrivals}
    before = np.zeros((2 * count, 2 * count), bool)
    lists: dict[int, list[tuple[int, int]]] = {}
    for family in families:
        assert family.op.workers is not None
        assert family.op.slots is not None
        places = zip(family.op.workers.get_values(), family.op.slots.get_values(), strict=True)
        for i, (worker, slot) in enumerate(places):
            lists.setdefault(worker, []).append((slot, number[family.name, i]))
        for edge in family.op.signals or ():
            for i, counter in enumerate(evaluate(edge.index.data, family.coordinates)[:, 0]):
                signals[edge.symbol, int(counter)].append(number[family.name, i])
    if any(len(signals[key]) != each for key, each in arrivals.items()):
        return False
    for family in families:
        for edge in family.op.waits or ():
            for i, counter in enumerate(evaluate(edge.index.data, family.coordinates)[:, 0]):
                for step in range(edge.lag.data, 2):
                    for signaller in signals[edge.symbol, int(counter)]:
                        source = signaller + (step - edge.lag.data) * count
                        before[source, number[family.name, i] + step * count] = True
    for placed in lists.values():
        line = [task + step * count for step in range(2) for _, task in sorted(placed)]
        before[line[:-1], line[1:]] = True
    for middle in range(2 * count):
        before |= before[:, middle, None] & before[None, middle, :]
    if before.diagonal().any():
        return False
    if not all(before[number[a], number[b]] for a, b in conflicts(module)):
        return False
    sets = touched(module)
    for a, b in product(names, names):
        (reads_a, writes_a), (reads_b, writes_b) = sets[a], sets[b]
        clash = writes_a & (reads_b | writes_b) or reads_a & writes_b
        if clash and not before[number[a], number[b] + count]:
            return False
    return all(before[a, b + count] for each in signals.values() for a, b in product(each, each))


@st.composite
def mutants(draw: st.DrawFn) -> tuple[ModuleOp, str]:
    """A scheduled program with one thing changed."""
    module = draw(programs())
    apply(module, LowerDependenciesPass(), FuseEventsPass(), NormalizeEventsPass())
    apply(module, LinearizeTasksPass(), ScheduleTasksPass(workers=draw(st.integers(1, 4))))
    families = families_of(module)
    op = draw(st.sampled_from(families)).op
    events = [each for each in module.walk() if isinstance(each, event.TensorOp)]
    kind = draw(
        st.sampled_from(["wait", "signal", "lag", "arrivals", "counter", "event", "swap", "move"])
    )
    match kind:
        case "wait":
            op.waits = None
        case "signal":
            op.signals = None
        case "lag":
            assert op.waits is not None
            edge = op.waits.data[0]
            op.waits = ArrayAttr([event.EdgeAttr(edge.event, edge.index, 1 - edge.lag.data)])
        case "arrivals":
            changed = draw(st.sampled_from(events))
            each = list(changed.arrivals_of_each)
            at = draw(st.integers(0, len(each) - 1))
            each[at] = max(1, each[at] + draw(st.sampled_from([-1, 1])))
            changed.arrivals = DenseArrayBase.from_list(i64, each)
        case "counter":
            assert op.waits is not None
            edge = op.waits.data[0]
            zero = constant_map(len(op.grid))
            op.waits = ArrayAttr([event.EdgeAttr(edge.event, zero, edge.lag)])
        case "event":
            other = draw(st.sampled_from(events)).sym_name.data
            op.waits = ArrayAttr([event.EdgeAttr(other, constant_map(len(op.grid)))])
        case "swap" | "move":
            places = [(f.op, i) for f in families for i in range(f.size)]
            (op, i), (other, j) = draw(st.sampled_from(places)), draw(st.sampled_from(places))
            for key in ("slots",) if kind == "swap" else ("slots", "workers"):
                mine, yours = list(getattr(op, key).get_values()), None
                yours = mine if other is op else list(getattr(other, key).get_values())
                mine[i], yours[j] = yours[j], mine[i]
                setattr(op, key, DenseArrayBase.from_list(i64, mine))
                setattr(other, key, DenseArrayBase.from_list(i64, yours))
    return module, kind


@given(mutants())
@settings(suppress_health_check=list(HealthCheck), max_examples=100)
def test_a_changed_schedule_is_accepted_only_if_it_is_safe(mutant: tuple[ModuleOp, str]):
    module, kind = mutant
    lists: dict[int, set[int]] = {}
    for family in families_of(module):
        assert family.op.workers is not None
        assert family.op.slots is not None
        for w, s in zip(family.op.workers.get_values(), family.op.slots.get_values(), strict=True):
            lists.setdefault(w, set()).add(s)
    tasks = sum(family.size for family in families_of(module))
    assume(sum(map(len, lists.values())) == tasks)
    try:
        VerifySchedulePass().apply(Context(), module)
        accepted = True
    except MpkirError:
        accepted = False
    assert accepted == is_safe(module), kind
