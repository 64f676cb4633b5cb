"""The simulator: never faster than the memory or the chain of events, and monotone in both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from mpkir.analysis.critical_path import critical_path
from mpkir.analysis.operators import advances
from mpkir.analysis.simulator import Simulation, simulate
from mpkir.errors import MpkirError
from mpkir.machine import Hops, Machine, machine_named
from mpkir.passes.scheduling.policy import policy_names
from mpkir.passes.verify_schedule import VerifySchedulePass

Schedule = Callable[[str, str, int], ModuleOp]
H100 = machine_named("h100")
POLICIES = ["round-robin", "list"]


def slower(machine: Machine, bandwidth: float, hop: float) -> Machine:
    """The machine with a part of its bandwidth and hops longer by so many microseconds."""
    hops = Hops(*(each + hop for each in (0.05, 0.3, 0.3, 1.0)))
    return replace(machine, hops=hops, memory_bandwidth=machine.memory_bandwidth * bandwidth)


def chain(played: Simulation) -> float:
    """The longest path of dependent tasks, of each only what its worker worked."""
    graph = played.plan.graph
    fired = np.zeros(len(graph.arrivals))
    longest = 0.0
    for family in graph.families:
        first, last = graph.offsets[family.number : family.number + 2].tolist()
        begin = np.zeros(family.size)
        for edge in graph.waits[family.number]:
            if not edge.lag:
                begin = np.maximum(begin, fired[edge.counter])
        end = begin + played.busy[first:last]
        for edge in graph.signals[family.number]:
            np.maximum.at(fired, edge.counter, end)
        longest = max(longest, float(end.max(initial=0)))
    return longest


@pytest.mark.parametrize("policy", POLICIES)
@given(data=st.data())
@settings(max_examples=25)
def test_time_is_bounded_by_memory_and_by_the_chain_of_events(
    programs: st.SearchStrategy[str], schedule: Schedule, policy: str, data: st.DataObject
):
    text, workers = data.draw(programs), data.draw(st.integers(1, 5))
    module = schedule(text, policy, workers)
    VerifySchedulePass().apply(Context(), module)
    played = simulate(module, H100)
    assert played.step >= played.floor * (1 - 1e-9)
    assert played.step >= chain(played) - 1e-9
    assert (played.start >= played.ready - 1e-9).all()
    assert (played.end >= played.start).all()
    assert (played.busy + played.starved <= played.end - played.start + 1e-9).all()
    # What makes up a step: the links of the path, and what each family added.
    assert sum(link.time for link in critical_path(played)) == pytest.approx(played.step)
    assert advances(played.end, played.plan.graph.offsets).sum() == pytest.approx(played.step)
    # No worker does two things at once.
    for worker in range(workers):
        mine = np.flatnonzero(played.worker == worker)
        # Tasks without work take no time, so one may start where another begins.
        mine = mine[np.lexsort((played.end[mine], played.start[mine]))]
        done = played.start[mine] + played.busy[mine] + played.starved[mine]
        assert (played.start[mine][1:] >= done[:-1] - 1e-9).all()
    again = simulate(module, H100)
    assert np.array_equal(again.end, played.end)


@given(data=st.data())
@settings(max_examples=25)
def test_less_bandwidth_or_longer_hops_never_help(
    programs: st.SearchStrategy[str], schedule: Schedule, data: st.DataObject
):
    module = schedule(data.draw(programs), "round-robin", data.draw(st.integers(1, 5)))
    times = [
        simulate(module, slower(H100, bandwidth, hop)).step
        for bandwidth, hop in [(1.0, 0.0), (0.5, 0.0), (0.01, 0.0)]
    ]
    # The order in which streams share the memory moves a step by a little either way.
    assert times[1] >= times[0] * 0.98
    assert times[2] >= times[1] * 0.98
    hops = [simulate(module, slower(H100, 1.0, hop)).step for hop in (0.0, 0.5, 5.0)]
    assert hops[1] >= hops[0] * 0.98
    assert hops[2] >= hops[1] * 0.98


def test_a_stream_alone_takes_its_bytes_over_the_bandwidth(schedule: Schedule):
    """138 MB through 132 workers, whose loaders never stop: within a few percent of the floor."""
    tasks, rows = 132 * 16, 16
    text = f"""
    func.func @step() {{
      %x = mpk_task.buffer input "x" : memref<1x2048xf32>
      %y = mpk_task.buffer output "y" : memref<1x{tasks * rows}xf32>
      %w = mpk_task.buffer weight "w" : memref<{tasks * rows}x2048xbf16>
      mpk_task.grid @f [{tasks}]
          reads(%x, %w : memref<1x2048xf32>, memref<{tasks * rows}x2048xbf16>)
          writes(%y : memref<1x{tasks * rows}xf32>)
          boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 2048]>,
                 #mpk_task.region<affine_map<(d0) -> (d0 * {rows}, 0)>, [{rows}, 2048]>,
                 #mpk_task.region<affine_map<(d0) -> (0, d0 * {rows})>, [1, {rows}]>] {{
      ^bb0(%0 : tensor<1x2048xf32>, %1 : tensor<{rows}x2048xbf16>):
        %2 = mpk_tensor.linear %0, [%1]
            : tensor<1x2048xf32>, [tensor<{rows}x2048xbf16>] to tensor<1x{rows}xf32>
        mpk_task.yield %2 : tensor<1x{rows}xf32>
      }}
      func.return
    }}"""
    module = schedule(text, "round-robin", 132)
    played = simulate(module, H100)
    assert played.floor == pytest.approx(tasks * rows * 4096 / 3.14e6, rel=1e-3)
    assert played.floor <= played.step <= 1.15 * played.floor


def test_a_module_without_schedule_is_refused(schedule: Schedule):
    assert set(POLICIES) <= set(policy_names())
    text = "func.func @step() { mpk_task.grid @a [4] boxes [] { mpk_task.yield } func.return }"
    module = schedule(text, "round-robin", 2)
    for op in module.walk():
        if op.name == "mpk_task.grid":
            del op.properties["workers"]
    with pytest.raises(MpkirError, match="@a: its tasks have no workers"):
        simulate(module, H100)
