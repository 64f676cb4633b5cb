"""The simulator: never faster than the memory or the chain of events, and monotone in both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from mpkir.analysis.critical_path import critical_path
from mpkir.analysis.operators import advances
from mpkir.analysis.simulator import Simulation, player, simulate
from mpkir.errors import MpkirError
from mpkir.frontend import decode_step, model_from_config
from mpkir.machine import Hops, Machine, machine_named
from mpkir.passes.scheduling.policy import policy_names
from mpkir.passes.verify_schedule import VerifySchedulePass
from mpkir.pipeline import lower

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


def product(tasks: int, rows: int, tokens: int) -> str:
    """A streamed product of so many tasks, of 2048 columns."""
    return f"""
    func.func @step() {{
      %x = mpk_task.buffer scratch "x" : memref<{tokens}x2048xf32>
      %y = mpk_task.buffer output "y" : memref<{tokens}x{tasks * rows}xf32>
      %w = mpk_task.buffer weight "w" : memref<{tasks * rows}x2048xbf16>
      mpk_task.grid @f [{tasks}]
          reads(%x, %w : memref<{tokens}x2048xf32>, memref<{tasks * rows}x2048xbf16>)
          writes(%y : memref<{tokens}x{tasks * rows}xf32>)
          boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [{tokens}, 2048]>,
                 #mpk_task.region<affine_map<(d0) -> (d0 * {rows}, 0)>, [{rows}, 2048]>,
                 #mpk_task.region<affine_map<(d0) -> (0, d0 * {rows})>, [{tokens}, {rows}]>] {{
      ^bb0(%0 : tensor<{tokens}x2048xf32>, %1 : tensor<{rows}x2048xbf16>):
        %2 = mpk_tensor.linear %0, [%1] : tensor<{tokens}x2048xf32>, [tensor<{rows}x2048xbf16>]
            to tensor<{tokens}x{rows}xf32>
        mpk_task.yield %2 : tensor<{tokens}x{rows}xf32>
      }}
      func.return
    }}"""


def test_a_stream_alone_takes_its_bytes_over_the_bandwidth(schedule: Schedule):
    """138 MB through 132 workers, whose loaders never stop: within a few percent of the floor."""
    tasks, rows = 132 * 16, 16
    played = simulate(schedule(product(tasks, rows, 1), "round-robin", 132), H100)
    assert played.floor == pytest.approx(tasks * rows * 4096 / 3.14e6, rel=1e-3)
    assert played.floor <= played.step <= 1.15 * played.floor


@pytest.mark.parametrize("tokens", [1, 4, 8, 16])
def test_what_products_multiply_takes_the_memorys_time(schedule: Schedule, tokens: int):
    """Every worker reads it, once in a run of tasks, and begins when the first of it has come."""
    module = schedule(product(132 * 16, 16, tokens), "round-robin", 132)
    free, shared = (
        simulate(module, replace(H100, timing=replace(H100.timing, l2_share=share))).step
        for share in (0.0, 0.5)
    )
    of_memory = 0.5 * 132 * tokens * 2048 * 4 / (H100.memory_bandwidth * 1e3)
    assert of_memory * 0.9 <= shared - free <= of_memory + 2.0


def test_attention_asks_for_its_first_rows_before_its_queries_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And for the others behind them; memory and hops are slow here."""
    config = transformers.LlamaConfig(
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=160,
    )
    module = decode_step(model_from_config(config), 2048)
    hops = replace(H100.hops, flag=5.0)
    machine = replace(H100, workers=16, memory_bandwidth=100, hops=hops)
    lower(module, machine)
    steps: list[float] = []
    for ahead in (1024, 1 << 20):
        monkeypatch.setattr(player, "ROWS_AHEAD", ahead)
        steps.append(simulate(module, machine, position=2000).step)
    assert steps[0] > steps[1] + 2.5


def test_a_module_without_schedule_is_refused(schedule: Schedule):
    assert set(POLICIES) <= set(policy_names())
    text = "func.func @step() { mpk_task.grid @a [4] boxes [] { mpk_task.yield } func.return }"
    module = schedule(text, "round-robin", 2)
    for op in module.walk():
        if op.name == "mpk_task.grid":
            del op.properties["workers"]
    with pytest.raises(MpkirError, match="@a: its tasks have no workers"):
        simulate(module, H100)
