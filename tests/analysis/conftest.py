"""Random scheduled programs, and machines to play them on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from mpkir.passes.fuse_events import FuseEventsPass
from mpkir.passes.linearize_tasks import LinearizeTasksPass
from mpkir.passes.lower_dependencies import LowerDependenciesPass
from mpkir.passes.normalize_events import NormalizeEventsPass
from mpkir.passes.pipeline_tasks import PipelineTasksPass
from mpkir.passes.schedule_tasks import ScheduleTasksPass
from mpkir.pipeline import context

COLUMNS = 64


def _family(number: int, tasks: int, rows: int, source: int, has_weight: bool) -> str:
    """A linear with a weight of its own, or the copy of a vector's element to each of its own."""
    width = tasks * rows
    target = f'%x{number} = mpk_task.buffer scratch "x{number}" : memref<1x{COLUMNS}xf32>'
    if not has_weight:
        return f"""
      {target}
      mpk_task.grid @f{number} [{tasks}]
          reads(%x{source} : memref<1x{COLUMNS}xf32>) writes(%x{number} : memref<1x{COLUMNS}xf32>)
          boxes [#mpk_task.region<affine_map<(d0) -> (0, d0 * {rows})>, [1, {rows}]>,
                 #mpk_task.region<affine_map<(d0) -> (0, d0 * {rows})>, [1, {rows}]>] {{
      ^bb0(%0 : tensor<1x{rows}xf32>):
        mpk_task.yield %0 : tensor<1x{rows}xf32>
      }}"""
    return f"""
      {target}
      %w{number} = mpk_task.buffer weight "w{number}" : memref<{width}x{COLUMNS}xbf16>
      mpk_task.grid @f{number} [{tasks}]
          reads(%x{source}, %w{number} : memref<1x{COLUMNS}xf32>, memref<{width}x{COLUMNS}xbf16>)
          writes(%x{number} : memref<1x{COLUMNS}xf32>)
          boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, {COLUMNS}]>,
                 #mpk_task.region<affine_map<(d0) -> (d0 * {rows}, 0)>, [{rows}, {COLUMNS}]>,
                 #mpk_task.region<affine_map<(d0) -> (0, d0 * {rows})>, [1, {rows}]>] {{
      ^bb0(%0 : tensor<1x{COLUMNS}xf32>, %1 : tensor<{rows}x{COLUMNS}xbf16>):
        %2 = mpk_tensor.linear %0, [%1]
            : tensor<1x{COLUMNS}xf32>, [tensor<{rows}x{COLUMNS}xbf16>] to tensor<1x{rows}xf32>
        mpk_task.yield %2 : tensor<1x{rows}xf32>
      }}"""


@st.composite
def _programs(draw: st.DrawFn) -> str:
    """Text of a module of task level: a tree of families, some of which stream weights."""
    lines = [f'%x0 = mpk_task.buffer input "x0" : memref<1x{COLUMNS}xf32>']
    whole = [0]
    for number in range(1, draw(st.integers(2, 7))):
        tasks, rows = draw(st.sampled_from([(8, 8), (4, 16), (2, 32), (1, 64), (16, 4)]))
        lines.append(
            _family(number, tasks, rows, draw(st.sampled_from(whole)), draw(st.booleans()))
        )
        whole.append(number)
    return "func.func @step() {\n" + "\n".join(lines) + "\nfunc.return\n}"


@pytest.fixture(scope="session")
def programs() -> st.SearchStrategy[str]:
    """Random programs at task level, as text."""
    return _programs()


@pytest.fixture(scope="session")
def schedule() -> Callable[[str, str, int], ModuleOp]:
    """Parse a program and take it to a schedule by a policy on so many workers."""

    def parse_and_schedule(text: str, policy: str, workers: int) -> ModuleOp:
        ctx = context()
        module = Parser(ctx, text).parse_module()
        for stage in (
            LowerDependenciesPass(),
            FuseEventsPass(),
            NormalizeEventsPass(),
            LinearizeTasksPass(),
            PipelineTasksPass(),
            ScheduleTasksPass(workers=workers, policy=policy),
        ):
            stage.apply(ctx, module)
        return module

    return parse_and_schedule
