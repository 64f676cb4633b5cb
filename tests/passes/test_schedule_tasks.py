"""Schedules: balance of bytes, places, and the size of a real model."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from mpkir.analysis.families import families_of
from mpkir.errors import MpkirError

Run = Callable[[str, str], ModuleOp]


def linear(name: str, tasks: int, source: str, target: str) -> str:
    """A family of tasks of two rows of a weight of its own; x and y have 256 elements."""
    return f"""
      %w_{name} = mpk_task.buffer weight "w_{name}" : memref<{2 * tasks}x256xbf16>
      mpk_task.grid @{name} [{tasks}]
          reads(%{source}, %w_{name} : memref<1x256xbf16>, memref<{2 * tasks}x256xbf16>)
          writes(%{target} : memref<1x256xbf16>)
          boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 256]>,
                 #mpk_task.region<affine_map<(d0) -> (d0 * 2, 0)>, [2, 256]>,
                 #mpk_task.region<affine_map<(d0) -> (0, d0 * 2)>, [1, 2]>] {{
      ^bb0(%0 : tensor<1x256xbf16>, %1 : tensor<2x256xbf16>):
        %2 = mpk_tensor.linear %0, [%1]
            : tensor<1x256xbf16>, [tensor<2x256xbf16>] to tensor<1x2xbf16>
        mpk_task.yield %2 : tensor<1x2xbf16>
      }}"""


def program(sizes: list[int]) -> str:
    """Families of these sizes, one after another, each from x to y or back."""
    ends = ("x", "y")
    families = [linear(f"f{i}", size, ends[i % 2], ends[1 - i % 2]) for i, size in enumerate(sizes)]
    return f"""
    func.func @step() {{
      %x = mpk_task.buffer state "x" : memref<1x256xbf16>
      %y = mpk_task.buffer state "y" : memref<1x256xbf16>
      {"".join(families)}
      func.return
    }}"""


@pytest.mark.parametrize("sizes", [[5, 7, 3, 9], [1, 1, 1, 1, 1], [128, 64]])
def test_bytes_balance_over_the_step(run: Run, sizes: list[int]):
    module = run(program(sizes), "mpk-schedule-tasks{workers=4}")
    load = np.zeros(4, np.int64)
    for family in families_of(module):
        assert family.op.workers is not None
        load += np.bincount(family.op.workers.get_values(), minlength=4)
    assert load.max() - load.min() <= 1


@pytest.mark.parametrize("option", ["policy=fastest", "workers=0"])
def test_bad_options(run: Run, option: str):
    with pytest.raises(MpkirError, match="mpk-schedule-tasks"):
        run(program([2]), f"mpk-schedule-tasks{{{option}}}")


@pytest.mark.parametrize("tasks", [128, 125])
def test_fifty_thousand_tasks_in_seconds(run: Run, tasks: int):
    """Dependences, schedule and proof: time follows families and tasks, not their pairs.

    With 125 tasks some elements are read by every family and written by none.
    """
    begin = perf_counter()
    run(
        program([tasks] * 390),
        "mpk-lower-dependencies,mpk-fuse-events,mpk-normalize-events,mpk-linearize-tasks,"
        "mpk-schedule-tasks{workers=132},mpk-verify-schedule",
    )
    assert perf_counter() - begin < 60
