"""Whatever ranks a policy gives, its schedule is right; and what it may not do is said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.dialects.builtin import DenseArrayBase, ModuleOp, i64

from mpkir.analysis.cost import Loop, cost_of
from mpkir.analysis.task_graph import task_graph_of
from mpkir.errors import MpkirError
from mpkir.passes.schedule_tasks import slots_of
from mpkir.passes.scheduling.policy import Placement, topological
from mpkir.passes.verify_schedule import VerifySchedulePass

Schedule = Callable[[str, str, int], ModuleOp]


@given(data=st.data())
@settings(max_examples=25)
def test_no_ranks_make_a_schedule_wrong(
    programs: st.SearchStrategy[str], schedule: Schedule, data: st.DataObject
):
    workers = data.draw(st.integers(1, 4))
    module = schedule(data.draw(programs), "round-robin", workers)
    graph = task_graph_of(module)
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    placed = [
        Placement(rng.integers(0, workers, f.size), rng.integers(-50, 50, f.size))
        for f in graph.families
    ]
    for family, each, slots in zip(
        graph.families, placed, slots_of(graph, placed, workers), strict=True
    ):
        assert slots is not None
        family.op.workers = DenseArrayBase.from_list(i64, each.workers.tolist())
        family.op.slots = DenseArrayBase.from_list(i64, slots.tolist())
    VerifySchedulePass().apply(Context(), module)


def test_ranks_stay_where_nothing_raises_them(schedule: Schedule):
    text = """
    func.func @step() {
      mpk_event.tensor @e counters 1 arrivals [2]
      mpk_task.grid @a [2] boxes [] signals [#mpk_event.edge<@e, affine_map<(d0) -> (0)>>] {
        mpk_task.yield
      }
      mpk_task.grid @b [2] boxes [] waits [#mpk_event.edge<@e, affine_map<(d0) -> (0)>>] {
        mpk_task.yield
      }
      mpk_task.grid @c [2] boxes [] { mpk_task.yield }
      func.return
    }"""
    graph = task_graph_of(_parse(text))
    ranks = topological(graph, [np.array([3, 7]), np.array([1, 9]), np.array([-2, 4])])
    assert [each.tolist() for each in ranks] == [[3, 7], [8, 9], [-2, 4]]
    last, waiting = graph.families[2].op, graph.families[1].op
    assert waiting.parent is not None
    module = waiting.get_toplevel_object()
    assert isinstance(module, ModuleOp)
    graph.families[0].op.detach()
    waiting.parent.insert_ops_after([graph.families[0].op], last)
    with pytest.raises(MpkirError, match="@b: the family stands before tasks that it waits for"):
        topological(task_graph_of(module), [None, None, None])


def _parse(text: str) -> ModuleOp:
    from xdsl.parser import Parser

    from mpkir.pipeline import context

    return Parser(context(), text).parse_module()


def test_costs_come_from_regions_and_bodies():
    text = """
    func.func @step() {
      %x = mpk_task.buffer scratch "x" : memref<1x64xf32>
      %w = mpk_task.buffer weight "w" : memref<20x64xbf16>
      %y = mpk_task.buffer output "y" : memref<1x20xf32>
      mpk_task.grid @f [3] reads(%x, %w : memref<1x64xf32>, memref<20x64xbf16>)
          writes(%y : memref<1x20xf32>)
          boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 64]>,
                 #mpk_task.region<affine_map<(d0) -> (d0 * 8, 0)>, [8, 64]>,
                 #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [1, 8]>]
          stream <[1], rows 2, parts 1> {
      ^bb0(%0 : tensor<1x64xf32>, %1 : tensor<8x64xbf16>):
        %2 = mpk_tensor.linear %0, [%1] : tensor<1x64xf32>, [tensor<8x64xbf16>] to tensor<1x8xf32>
        mpk_task.yield %2 : tensor<1x8xf32>
      }
      func.return
    }"""
    (family,) = task_graph_of(_parse(text)).families
    cost = cost_of(family)
    assert cost.loop is Loop.STREAM
    assert cost.streamed.tolist() == [1024, 1024, 512], "the last tile has four rows"
    assert cost.stages.tolist() == [4, 4, 2]
    assert (cost.stage_bytes, cost.shared, cost.common) == (256, 256, 256)
    assert cost.written.tolist() == [32, 32, 16]
    assert cost.flops.tolist() == [2 * 8 * 64] * 3
    assert cost.bytes.sum() == 20 * 64 * 2


@pytest.mark.parametrize(
    ("layout", "x_bytes", "own_bytes"), [("", 4, 4), (" planes", 2, 4)], ids=["whole", "planes"]
)
def test_of_two_planes_a_product_multiplies_the_first(layout: str, x_bytes: int, own_bytes: int):
    """What ends its sums is read whole."""
    x = f'scratch "x" flagged brief panels <8 of 64>{layout} : memref<4x64xf32>'
    text = f"""
    func.func @step() {{
      %x = mpk_task.buffer {x}
      %w = mpk_task.buffer weight "w" : memref<64x64xbf16>
      %y = mpk_task.buffer output "y" : memref<4x64xf32>
      mpk_task.grid @f [8]
          reads(%x, %w, %x : memref<4x64xf32>, memref<64x64xbf16>, memref<4x64xf32>)
          writes(%y : memref<4x64xf32>)
          boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [4, 64]>,
                 #mpk_task.region<affine_map<(d0) -> (d0 * 8, 0)>, [8, 64]>,
                 #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [4, 8]>,
                 #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [4, 8]>]
          stream <[1], rows 8, parts 1> {{
      ^bb0(%0 : tensor<4x64xf32>, %1 : tensor<8x64xbf16>, %2 : tensor<4x8xf32>):
        %3 = mpk_tensor.linear %0, [%1] : tensor<4x64xf32>, [tensor<8x64xbf16>] to tensor<4x8xf32>
        mpk_task.yield %3 : tensor<4x8xf32>
      }}
      func.return
    }}"""
    (family,) = task_graph_of(_parse(text)).families
    cost = cost_of(family)
    assert cost.tokens == 4
    assert cost.common == 4 * 64 * x_bytes
    assert cost.own.tolist() == [4 * 8 * own_bytes] * 8


@pytest.mark.parametrize(("position", "rows"), [(None, 16), (0, 1), (5, 6), (100, 16)])
def test_a_cache_is_read_up_to_the_position(position: int | None, rows: int):
    text = """
    func.func @step() {
      %q = mpk_task.buffer scratch "q" : memref<1x1x2x8xf32>
      %k = mpk_task.buffer state "k" : memref<1x1x16x8xf32>
      %v = mpk_task.buffer state "v" : memref<1x1x16x8xf32>
      %n = mpk_task.buffer scratch "n" : memref<1x1x1x8xf32>
      %y = mpk_task.buffer scratch "y" : memref<1x1x2x8xf32>
      mpk_task.grid @f [1]
          reads(%q, %n, %k, %v : memref<1x1x2x8xf32>, memref<1x1x1x8xf32>,
                memref<1x1x16x8xf32>, memref<1x1x16x8xf32>)
          writes(%y, %k, %v : memref<1x1x2x8xf32>, memref<1x1x16x8xf32>, memref<1x1x16x8xf32>)
          boxes [#mpk_task.region<affine_map<(d0) -> (0, 0, 0, 0)>, [1, 1, 2, 8]>,
                 #mpk_task.region<affine_map<(d0) -> (0, 0, 0, 0)>, [1, 1, 1, 8]>,
                 #mpk_task.region<affine_map<(d0) -> (0, 0, 0, 0)>, [1, 1, 16, 8]>,
                 #mpk_task.region<affine_map<(d0) -> (0, 0, 0, 0)>, [1, 1, 16, 8]>,
                 #mpk_task.region<affine_map<(d0) -> (0, 0, 0, 0)>, [1, 1, 2, 8]>,
                 #mpk_task.region<affine_map<(d0) -> (0, 0, 0, 0)>, [1, 1, 16, 8]>,
                 #mpk_task.region<affine_map<(d0) -> (0, 0, 0, 0)>, [1, 1, 16, 8]>] {
      ^bb0(%0 : tensor<1x1x2x8xf32>, %1 : tensor<1x1x1x8xf32>, %2 : tensor<1x1x16x8xf32>,
           %3 : tensor<1x1x16x8xf32>):
        %p = mpk_tensor.position : tensor<1xi64>
        %4, %5, %6 = mpk_tensor.attention %0, %1, %1 cache %2, %3 at %p scale 1.0
            : (tensor<1x1x2x8xf32>, tensor<1x1x1x8xf32>, tensor<1x1x1x8xf32>,
               tensor<1x1x16x8xf32>, tensor<1x1x16x8xf32>, tensor<1xi64>)
            -> (tensor<1x1x2x8xf32>, tensor<1x1x16x8xf32>, tensor<1x1x16x8xf32>)
        mpk_task.yield %4, %5, %6
            : tensor<1x1x2x8xf32>, tensor<1x1x16x8xf32>, tensor<1x1x16x8xf32>
      }
      func.return
    }"""
    (family,) = task_graph_of(_parse(text)).families
    cost = cost_of(family, position)
    assert cost.loop is Loop.ATTENTION
    assert cost.dram.tolist() == [2 * rows * 8 * 4]
    assert cost.flops.tolist() == [4 * 2 * 8 * rows]
    assert cost.written.tolist() == [2 * 8 * 4 + 2 * 8 * 4], "one row of each cache"
