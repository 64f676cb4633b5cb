"""Counts of task graphs, by hand and against single tasks and elements."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.dialects import func
from xdsl.dialects.builtin import FloatAttr, MemRefType, ModuleOp, TensorType, bf16
from xdsl.ir import Block, Region
from xdsl.ir.affine import AffineExpr, AffineMap
from xdsl.parser import Parser

from mpkir.analysis.dependence import Hazard, conflicts_of, touches_of
from mpkir.analysis.families import families_of
from mpkir.analysis.statistics import statistics_of
from mpkir.analysis.task_pairs import pairs_of
from mpkir.dialects import task, tensor
from mpkir.errors import MpkirError
from mpkir.pipeline import context

SIZE = 10
"""Elements of the one buffer."""

Accesses = list[tuple[int, int, int, bool]]
"""Stride, offset and size of a task's box, and whether it is written."""


@st.composite
def accesses(draw: st.DrawFn) -> tuple[int, Accesses]:
    """A family's number of tasks and what each touches."""
    box = st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(1, 4), st.booleans())
    return draw(st.integers(1, 5)), draw(st.lists(box, min_size=1, max_size=3))


def grid(name: str, tasks: int, accesses: Accesses, buffer: task.BufferOp) -> task.GridOp:
    accesses = sorted(accesses, key=lambda access: access[3])
    boxes = [
        task.RegionAttr(AffineMap(1, 0, (AffineExpr.dimension(0) * stride + offset,)), [size])
        for stride, offset, size, _ in accesses
    ]
    types = [TensorType(bf16, box.shape) for box in boxes]
    reads = sum(not is_write for *_, is_write in accesses)
    body = Block(arg_types=types[:reads])
    results = [tensor.FullOp(FloatAttr(0.0, bf16), type) for type in types[reads:]]
    body.add_ops([*results, task.YieldOp(*(op.result for op in results))])
    values = [buffer.result] * len(accesses)
    return task.GridOp(name, [tasks], values[:reads], values[reads:], boxes, body)


def elements(task: int, access: tuple[int, int, int, bool]) -> set[int]:
    stride, offset, size, _ = access
    low = task * stride + offset
    return set(range(low, min(low + size, SIZE)))


def conflicting(first: Accesses, second: Accesses, a: int, b: int, *, data: bool) -> bool:
    """Whether task a of the first and b of the second conflict; `data`: only by what b reads."""
    return any(
        elements(a, x) & elements(b, y)
        for x, y in product(first, second)
        if (x[3] and not y[3] if data else x[3] or y[3])
    )


@given(accesses(), accesses())
def test_pairs_are_those_of_single_tasks(a: tuple[int, Accesses], b: tuple[int, Accesses]):
    buffer = task.BufferOp(task.BufferKind.SCRATCH, "x", MemRefType(bf16, [SIZE]))
    grids = [grid("a", *a, buffer), grid("b", *b, buffer)]
    block = Block([buffer, *grids, func.ReturnOp()])
    module = ModuleOp([func.FuncOp("step", ((), ()), Region(block))])
    found = conflicts_of(touches_of(families_of(module)))
    for data, hazard in ((False, None), (True, Hazard.READ_AFTER_WRITE)):
        wanted = sum(
            conflicting(a[1], b[1], i, j, data=data) for i, j in product(range(a[0]), range(b[0]))
        )
        assert sum(pairs_of(conflict, hazard) for conflict in found) == wanted


FORK = """
func.func @step() {
  mpk_event.tensor @a counters 2 arrivals [2]
  mpk_event.tensor @b counters 1 arrivals [3]
  mpk_event.tensor @end counters 1 arrivals [6]
  mpk_task.grid @x [4] boxes [] waits [#mpk_event.edge<@end, affine_map<(d0) -> (0)>, lag 1>]
    signals [#mpk_event.edge<@a, affine_map<(d0) -> (d0 floordiv 2)>>] { mpk_task.yield }
  mpk_task.grid @y [2] boxes [] waits [#mpk_event.edge<@a, affine_map<(d0) -> (d0)>>]
    signals [#mpk_event.edge<@b, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @z [1] boxes [] waits [#mpk_event.edge<@a, affine_map<(d0) -> (0)>>]
    signals [#mpk_event.edge<@b, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @last [6] boxes [] waits [#mpk_event.edge<@b, affine_map<(d0) -> (0)>>]
    signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  func.return
}
"""


def parse(text: str) -> ModuleOp:
    module = Parser(context(), text).parse_module()
    module.verify()
    return module


def test_events_of_a_fork_and_a_join():
    found = statistics_of(parse(FORK))
    assert (found.operators, found.tasks, found.joins) == (0, 0, 13)
    assert found.events == 4
    # @a's first counter releases y[0] and z[0], with y[1] between them.
    assert (found.released, found.ranges) == (13, 5)
    assert (found.waits, found.signals) == (13, 13)
    assert found.chain == 3


def test_a_circle_has_no_longest_chain():
    text = FORK.replace(
        "waits [#mpk_event.edge<@end, affine_map<(d0) -> (0)>, lag 1>]",
        ("waits [#mpk_event.edge<@b, affine_map<(d0) -> (0)>>]"),
    )
    with pytest.raises(MpkirError, match="circle"):
        statistics_of(parse(text))


def test_a_module_of_operators_has_only_those():
    text = """
    func.func @step() {
      %x = mpk_tensor.input "x" : tensor<1x8xf32>
      %w = mpk_tensor.weight "w" : tensor<8x8xf32>
      %y = mpk_tensor.linear %x, [%w] : tensor<1x8xf32>, [tensor<8x8xf32>] to tensor<1x8xf32>
      mpk_tensor.output "y", %y : tensor<1x8xf32>
      func.return
    }
    """
    assert list(statistics_of(parse(text)).rows()) == [("operators", "1")]
