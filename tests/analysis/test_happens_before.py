"""Clocks: who is done before whom, with dynamic tasks that have no place in any list."""

from __future__ import annotations

import numpy as np
from xdsl.parser import Parser

from mpkir.analysis.happens_before import happens_before
from mpkir.analysis.schedule import schedule_of
from mpkir.pipeline import context

ZERO = "affine_map<(d0) -> (0)>"


def grid(name: str, size: int, waits: str, signals: str, places: str) -> str:
    return f"""
    mpk_task.grid @{name} [{size}] boxes [] waits [#mpk_event.edge<@{waits}>]
        signals [#mpk_event.edge<@{signals}>] {places} {{
      mpk_task.yield
    }}"""


def stages(count: int, size: int) -> str:
    """A first task on a worker, then stages of dynamic tasks, each released by the one before."""
    events = [f"mpk_event.tensor @e{i} counters 1 arrivals [{size}]" for i in range(count)]
    grids = [
        grid("first", 1, f"e{count - 1}, {ZERO}, lag 1", f"go, {ZERO}", "workers [0] slots [0]")
    ]
    for i in range(count):
        before = f"e{i - 1}" if i else "go"
        grids.append(grid(f"g{i}", size, f"{before}, {ZERO}", f"e{i}, {ZERO}", "dynamic"))
    return f"""
module attributes {{mpk.workers = 2}} {{
  func.func @step() {{
    mpk_event.tensor @go counters 1 arrivals [1]
    {" ".join(events)}
    {"".join(grids)}
    func.return
  }}
}}"""


def test_stages_of_dynamic_tasks_share_one_component():
    schedule = schedule_of(Parser(context(), stages(30, 5)).parse_module())
    order = happens_before(schedule)
    # Two workers, and room for chains, however many stages there are.
    assert order.clocks.shape[2] <= 2 + 8
    tasks = np.arange(schedule.tasks)
    stage = np.where(tasks == 0, -1, (tasks - 1) // 5)
    a, b = np.meshgrid(tasks, tasks, indexing="ij")
    found = order.ordered(a.ravel(), b.ravel()).reshape(a.shape)
    assert (found[a != b] == (stage[a] < stage[b])[a != b]).all()
    assert order.follows(tasks).all()


def test_groups_that_run_side_by_side_have_components_of_their_own():
    text = f"""
module attributes {{mpk.workers = 1}} {{
  func.func @step() {{
    mpk_event.tensor @go counters 1 arrivals [1]
    mpk_event.tensor @e counters 2 arrivals [2]
    mpk_event.tensor @end counters 1 arrivals [2]
    {grid("first", 1, f"end, {ZERO}, lag 1", f"go, {ZERO}", "workers [0] slots [0]")}
    {grid("many", 4, f"go, {ZERO}", "e, affine_map<(d0) -> (d0 floordiv 2)>", "dynamic")}
    {grid("last", 2, "e, affine_map<(d0) -> (d0)>", f"end, {ZERO}", "dynamic")}
    func.return
  }}
}}"""
    order = happens_before(schedule_of(Parser(context(), text).parse_module()))
    # Tasks: 0 first, 1 2 3 4 many, 5 6 last; 5 follows 1 and 2, 6 follows 3 and 4.
    pairs = {(a, b) for a in range(7) for b in range(7) if a != b and ordered(order, a, b)}
    after_first = {(0, b) for b in range(1, 7)}
    assert pairs == after_first | {(1, 5), (2, 5), (3, 6), (4, 6)}
    assert all(ordered(order, a, b, 1) for a in range(7) for b in range(7))


def ordered(order, earlier: int, later: int, step: int = 0) -> bool:
    return bool(order.ordered(np.array([earlier]), np.array([later]), step)[0])
