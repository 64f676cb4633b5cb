"""The table of small scheduled modules."""

from __future__ import annotations

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser
from xdsl.passes import PassPipeline
from xdsl.universe import Universe

from mpkir.backends.table import buffers_of, table_of
from mpkir.errors import MpkirError
from mpkir.pipeline import context
from mpkir.runtime.table_text import disassemble

STEP = """
func.func @step() {
  %x = mpk_task.buffer state "x" initial -1 : memref<1x8xi64>
  %w = mpk_task.buffer weight "w" : memref<12x8xbf16>
  %h = mpk_task.buffer scratch "h" : memref<1x8xbf16>
  %y = mpk_task.buffer output "y" : memref<1x12xf32>
  mpk_task.grid @a [1] reads(%x : memref<1x8xi64>)
      writes(%h : memref<1x8xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 8]>,
             #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 8]>] {
  ^bb0(%0 : tensor<1x8xi64>):
    %1 = mpk_tensor.full 1.0 : f32 : tensor<1x8xbf16>
    mpk_task.yield %1 : tensor<1x8xbf16>
  }
  mpk_task.grid @b [6] reads(%h, %w : memref<1x8xbf16>, memref<12x8xbf16>)
      writes(%y : memref<1x12xf32>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 8]>,
             #mpk_task.region<affine_map<(d0) -> (d0 * 2, 0)>, [2, 8]>,
             #mpk_task.region<affine_map<(d0) -> (0, d0 * 2)>, [1, 2]>] {
  ^bb0(%0 : tensor<1x8xbf16>, %1 : tensor<2x8xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x8xbf16>, [tensor<2x8xbf16>] to tensor<1x2xf32>
    mpk_task.yield %2 : tensor<1x2xf32>
  }
  func.return
}
"""

LOWER = "mpk-lower-dependencies,mpk-fuse-events,mpk-normalize-events,mpk-linearize-tasks"


def lowered(pipeline: str, text: str = STEP) -> ModuleOp:
    ctx = context()
    module = Parser(ctx, text).parse_module()
    PassPipeline.parse_spec(Universe.get_multiverse().all_passes, pipeline).apply(ctx, module)
    return module


def test_a_table():
    module = lowered(f"{LOWER},mpk-pipeline-tasks,mpk-schedule-tasks{{workers=4}}")
    assert disassemble(table_of(module)).splitlines() == [
        "mpkt 1",
        "",
        "buffer x",
        "buffer w",
        "buffer h",
        "buffer y",
        "",
        "body full_0",
        "body linear_1",
        "",
        "event e0 arrivals 1",
        "event end arrivals 6",
        "",
        "family a = full_0[1] (x, h)",
        "family b = linear_1[6] stream 2 x 1 (h, w, y)",
        "",
        "worker 0",
        "  a[0]  wait end >= 6 lag 1  signal e0 += 1",
        "  b[0]  wait e0 >= 1",
        "  b[4]  signal end += 2",
        "",
        "worker 1",
        "  b[1]  wait e0 >= 1",
        "  b[5]  signal end += 2",
        "",
        "worker 2",
        "  b[2]  wait e0 >= 1  signal end += 1",
        "",
        "worker 3",
        "  b[3]  wait e0 >= 1  signal end += 1",
    ]


def test_workers_without_a_task_stay():
    assert table_of(lowered(f"{LOWER},mpk-schedule-tasks{{workers=20}}")).worker_count == 20


def test_buffers_in_the_order_of_ids():
    module = lowered(f"{LOWER},mpk-schedule-tasks")
    buffers = buffers_of(module)
    assert tuple(buffer.name for buffer in buffers) == table_of(module).names.buffers
    assert [(b.kind, b.dtype, b.shape, b.initial) for b in buffers] == [
        ("state", "int64", (1, 8), -1),
        ("weight", "bfloat16", (12, 8), 0),
        ("scratch", "bfloat16", (1, 8), 0),
        ("output", "float32", (1, 12), 0),
    ]


def test_a_schedule_has_to_come_before():
    with pytest.raises(MpkirError, match="has no schedule; run mpk-schedule-tasks before"):
        table_of(lowered(LOWER))


def test_several_waits_have_no_room():
    zero = "affine_map<(d0) -> (0)>"
    waits = ", ".join(f"#mpk_event.edge<@{name}, {zero}, lag 1>" for name in ("p", "q"))
    signals = waits.replace(", lag 1", "")
    text = f"""
    func.func @step() {{
      mpk_event.tensor @p counters 1 arrivals [1]
      mpk_event.tensor @q counters 1 arrivals [1]
      mpk_task.grid @a [1] boxes [] waits [{waits}] signals [{signals}] {{ mpk_task.yield }}
      func.return
    }}"""
    with pytest.raises(MpkirError, match="@a: tasks wait for 2 events, a table has room for one"):
        table_of(lowered("mpk-schedule-tasks{workers=1}", text))


def test_too_many_buffers():
    reads = ", ".join(["%x"] * 13)
    types = ", ".join(["memref<4xf32>"] * 13)
    boxes = ", ".join(["#mpk_task.region<affine_map<(d0) -> (0)>, [4]>"] * 13)
    arguments = ", ".join(f"%{i} : tensor<4xf32>" for i in range(13))
    text = f"""
    func.func @step() {{
      %x = mpk_task.buffer input "x" : memref<4xf32>
      mpk_task.grid @a [1] reads({reads} : {types}) boxes [{boxes}] {{
      ^bb0({arguments}):
        mpk_task.yield
      }}
      func.return
    }}"""
    with pytest.raises(MpkirError, match="@a: a task touches 13 buffers"):
        table_of(lowered("mpk-schedule-tasks{workers=1}", text))
