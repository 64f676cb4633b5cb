"""Collectives as tasks: all ranks together do what the operators of the tensor level say, bit by
bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from mpkir.backends.body import bodies_of
from mpkir.backends.cuda.emit import emit
from mpkir.backends.interpreter import event_level
from mpkir.backends.interpreter.tensor_level import TensorProgram
from mpkir.backends.table import table_of
from mpkir.dialects.task import GridOp
from mpkir.errors import MpkirError
from mpkir.machine import machine_named
from mpkir.passes.choose_handoffs import ChooseHandoffsPass
from mpkir.passes.eliminate_dependencies import EliminateDependenciesPass
from mpkir.passes.fuse_events import FuseEventsPass
from mpkir.passes.linearize_tasks import LinearizeTasksPass
from mpkir.passes.lower_dependencies import LowerDependenciesPass
from mpkir.passes.merge_events import MergeEventsPass
from mpkir.passes.normalize_events import NormalizeEventsPass
from mpkir.passes.partition_tiles import PartitionTilesPass
from mpkir.passes.plan_memory import PlanMemoryPass
from mpkir.passes.schedule_tasks import ScheduleTasksPass
from mpkir.passes.verify_schedule import VerifySchedulePass
from mpkir.pipeline import context

DEPTH = 2
"""What a rank's part of a product sums over."""
STEPS = 3

EPILOGUE = """epilogue {
    ^bb0(%0 : f32, %1 : f32):
      %2 = arith.addf %0, %1 : f32
      mpk_tensor.yield %2 : f32
    }"""


def all_reduced(ranks: int, of: int, rows: int, columns: int) -> str:
    """Partial products of `of` different parts, added, and a residual."""
    x, y, w = f"tensor<{rows}x{DEPTH}xf32>", f"tensor<{rows}x{columns}xf32>", _weight(columns)
    return _module(
        ranks,
        f"""
    %x = mpk_tensor.input "x" : {x}
    %r = mpk_tensor.input "r" : {y}
    %w = mpk_tensor.weight "w" shard <dim 1 of {of}> : {w}
    %p = mpk_tensor.linear %x, [%w] : {x}, [{w}] to {y}
    %s = mpk_tensor.all_reduce %p of {of} {EPILOGUE} with %r : {y} : {y} to {y}
    mpk_tensor.output "y", %s : {y}""",
    )


def reduce_scattered(ranks: int, of: int, shape: tuple[int, int], dim: int, gathers: bool) -> str:
    """Partial products of `of` different parts, of whose sum each rank keeps its part, or sends it
    to all; and a residual."""
    (rows, columns), r = shape, [*shape]
    r[dim] //= of
    part, columns_of = f"tensor<{r[0]}x{r[1]}xf32>", _weight(columns)
    x, y = f"tensor<{rows}x{DEPTH}xf32>", f"tensor<{rows}x{columns}xf32>"
    result = y if gathers else part
    gather = f"%g = mpk_tensor.all_gather %s dim {dim} of {of} : {part} to {y}" if gathers else ""
    shard = "" if gathers else f" shard <dim {dim} of {of}>"
    kind = "input" if gathers else "weight"
    return _module(
        ranks,
        f"""
    %x = mpk_tensor.input "x" : {x}
    %r = mpk_tensor.{kind} "r"{shard} : {result}
    %w = mpk_tensor.weight "w" shard <dim 1 of {of}> : {columns_of}
    %p = mpk_tensor.linear %x, [%w] : {x}, [{columns_of}] to {y}
    %s = mpk_tensor.reduce_scatter %p dim {dim} of {of} : {y} to {part}
    {gather}
    %e = mpk_tensor.elementwise {"%g" if gathers else "%s"}, %r {{
    ^bb0(%0 : f32, %1 : f32):
      %2 = arith.addf %0, %1 : f32
      mpk_tensor.yield %2 : f32
    }} : ({result}, {result}) -> {result}
    mpk_tensor.output "y", %e{shard} : {result}""",
    )


def _weight(columns: int) -> str:
    return f"tensor<{columns}x{DEPTH}xf32>"


def _module(ranks: int, text: str) -> str:
    head = f"builtin.module attributes {{mpk.mesh = {{tp = {ranks}}}}}"
    return f"{head} {{\n  func.func @step() {{{text}\n    func.return\n  }}\n}}"


def parsed(text: str) -> ModuleOp:
    module = Parser(context(), text).parse_module()
    module.verify()
    return module


def scheduled(module: ModuleOp, flags: bool, workers: int, max_rows: int) -> ModuleOp:
    """As tasks of a few workers, proven."""
    module = module.clone()
    for each in (
        PartitionTilesPass(workers=workers, max_rows=max_rows, task_overhead=0),
        *((ChooseHandoffsPass(),) if flags else ()),
        PlanMemoryPass(),
        LowerDependenciesPass(),
        FuseEventsPass(),
        MergeEventsPass(),
        EliminateDependenciesPass(),
        NormalizeEventsPass(),
        LinearizeTasksPass(),
        ScheduleTasksPass(workers=workers),
        VerifySchedulePass(),
    ):
        each.apply(Context(), module)
    module.verify()
    return module


def check(module: ModuleOp, tasks: ModuleOp, of: int, rows: int, columns: int) -> None:
    """That tasks give in several steps, in any timing, what the operators give."""
    random = np.random.default_rng(of + columns)
    inputs = {
        "x": random.standard_normal((rows, DEPTH), np.float32),
        "r": random.standard_normal((rows, columns), np.float32),
    }
    weights = {"w": random.standard_normal((columns, DEPTH * of), np.float32), "r": inputs["r"]}
    wanted = TensorProgram(module, weights).step({}, inputs, 0)["y"]
    partial = [inputs["x"] @ weights["w"][:, DEPTH * r : DEPTH * (r + 1)].T for r in range(of)]
    np.testing.assert_allclose(wanted, sum(partial) + inputs["r"], rtol=1e-4, atol=1e-5)
    for order in ("random", "eager"):
        run = event_level.run_steps(tasks, weights, {}, inputs, 0, STEPS, order=order)
        np.testing.assert_array_equal(run.outputs["y"], wanted)


@st.composite
def shapes(draw: st.DrawFn, most: int) -> tuple[int, int]:
    """How many ranks, and how many different parts they have."""
    ranks = draw(st.sampled_from([n for n in (2, 3, 4, 8, 16) if n <= most]))
    return ranks, draw(st.sampled_from([n for n in range(2, ranks + 1) if ranks % n == 0]))


QUICK = settings(deadline=None, max_examples=15)


@given(shapes(16), st.integers(1, 2), st.integers(1, 40), st.booleans(), st.integers(1, 3))
@QUICK
def test_all_reduce(
    shape: tuple[int, int], rows: int, columns: int, flags: bool, workers: int
) -> None:
    module = parsed(all_reduced(*shape, rows, columns))
    tasks = scheduled(module, flags, workers, max_rows=7)
    check(module, tasks, shape[1], rows, columns)


@given(
    shapes(8), st.sampled_from([0, 1]), st.integers(1, 3), st.integers(1, 12), st.booleans(),
    st.booleans(), st.integers(1, 3),
)  # fmt: skip
@QUICK
def test_reduce_scatter(
    shape: tuple[int, int], dim: int, a: int, b: int, gathers: bool, flags: bool, workers: int
) -> None:
    size = [a, b]
    size[dim] *= shape[1]
    module = parsed(reduce_scattered(*shape, (size[0], size[1]), dim, gathers))
    tasks = scheduled(module, flags, workers, max_rows=7)
    check(module, tasks, shape[1], size[0], size[1])


@pytest.mark.parametrize("flags", [False, True])
def test_rows_of_sixteen_ranks_are_one_operand(flags: bool) -> None:
    module = parsed(all_reduced(16, 16, 1, 64))
    tasks = scheduled(module, flags, 3, max_rows=32)
    check(module, tasks, 16, 1, 64)
    table = table_of(tasks)
    assert len(table.families) == 2
    text = emit(bodies_of(tasks), machine_named("h200", workers=3), 1)
    assert ("Gathered" in text) == flags


@pytest.mark.parametrize("family", ["reduce_scatter", "elementwise"])
def test_the_proof_misses_a_wait(family: str) -> None:
    """Of who adds up a part for all who send, and of who reads all parts for all who add."""
    module = parsed(reduce_scattered(4, 4, (1, 16), 1, gathers=True))
    tasks = scheduled(module, False, 2, max_rows=8)
    op = next(op for op in tasks.walk() if isinstance(op, GridOp) and op.sym_name.data == family)
    op.waits = None
    with pytest.raises(MpkirError, match=r"schedule: .* of another rank"):
        VerifySchedulePass().apply(Context(), tasks)
