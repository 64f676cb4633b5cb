"""Tasks given out while a program runs: the same bits as with a static schedule, and what stops a
loop or hangs is found as there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import PassPipeline
from xdsl.universe import Universe

from mpkir.backends.body import bodies_of
from mpkir.backends.cpu.emit import emit
from mpkir.backends.table import buffers_of, table_of
from mpkir.errors import MpkirError
from mpkir.pipeline import context
from mpkir.runtime.cpu import CpuProgram, build
from mpkir.runtime.table import TaskField

LOWER = "mpk-lower-dependencies,mpk-fuse-events,mpk-normalize-events,mpk-linearize-tasks"

FORK = """
  %x = mpk_tensor.state "x" : tensor<1x64xf32>
  %a = mpk_tensor.weight "a" : tensor<64x64xf32>
  %b = mpk_tensor.weight "b" : tensor<64x64xf32>
  %c = mpk_tensor.weight "c" : tensor<64x64xf32>
  %p = mpk_tensor.linear %x, [%a] : tensor<1x64xf32>, [tensor<64x64xf32>] to tensor<1x64xf32>
  %q = mpk_tensor.linear %p, [%b] : tensor<1x64xf32>, [tensor<64x64xf32>] to tensor<1x64xf32>
  %r = mpk_tensor.linear %p, [%c] : tensor<1x64xf32>, [tensor<64x64xf32>] to tensor<1x64xf32>
  %y = mpk_tensor.elementwise %q, %r {
  ^bb0(%0 : f32, %1 : f32):
    %2 = math.tanh %0 : f32
    %3 = math.tanh %1 : f32
    %4 = arith.subf %2, %3 : f32
    mpk_tensor.yield %4 : f32
  } : (tensor<1x64xf32>, tensor<1x64xf32>) -> tensor<1x64xf32>
  mpk_tensor.store_state "x", %y : tensor<1x64xf32>"""
"""Two products of one value, and back into it."""

ATTENTION = """
  %x = mpk_tensor.state "x" : tensor<1x1x64xf32>
  %w = mpk_tensor.weight "w" : tensor<128x64xf32>
  %all = mpk_tensor.linear %x, [%w] : tensor<1x1x64xf32>, [tensor<128x64xf32>] to
    tensor<1x1x128xf32>
  %rows = mpk_tensor.reshape %all : tensor<1x1x128xf32> to tensor<1x1x8x16xf32>
  %q = mpk_tensor.slice %rows dim 2 start 0 step 1 : tensor<1x1x8x16xf32> to tensor<1x1x4x16xf32>
  %k = mpk_tensor.slice %rows dim 2 start 4 step 1 : tensor<1x1x8x16xf32> to tensor<1x1x2x16xf32>
  %v = mpk_tensor.slice %rows dim 2 start 6 step 1 : tensor<1x1x8x16xf32> to tensor<1x1x2x16xf32>
  %kc = mpk_tensor.state "kc" : tensor<1x2x80x16xf32>
  %vc = mpk_tensor.state "vc" : tensor<1x2x80x16xf32>
  %p = mpk_tensor.position : tensor<1xi64>
  %kb = mpk_tensor.reshape %kc : tensor<1x2x80x16xf32> to tensor<1x2x1x5x16x16xf32>
  %vb = mpk_tensor.reshape %vc : tensor<1x2x80x16xf32> to tensor<1x2x1x5x16x16xf32>
  %acc, %stats, %kn, %vn = mpk_tensor.attention_split chunks 5 %q, %k, %v cache %kb, %vb at %p
    scale 0.25 : (tensor<1x1x4x16xf32>, tensor<1x1x2x16xf32>, tensor<1x1x2x16xf32>,
      tensor<1x2x1x5x16x16xf32>, tensor<1x2x1x5x16x16xf32>, tensor<1xi64>) ->
        (tensor<1x1x4x5x16xf32>, tensor<1x1x4x5x2xf32>, tensor<1x2x1x5x16x16xf32>,
          tensor<1x2x1x5x16x16xf32>)
  %y = mpk_tensor.attention_merge block 16 %acc, %stats at %p : (tensor<1x1x4x5x16xf32>,
    tensor<1x1x4x5x2xf32>, tensor<1xi64>) -> tensor<1x1x4x16xf32>
  %kr = mpk_tensor.reshape %kn : tensor<1x2x1x5x16x16xf32> to tensor<1x2x80x16xf32>
  %vr = mpk_tensor.reshape %vn : tensor<1x2x1x5x16x16xf32> to tensor<1x2x80x16xf32>
  %z = mpk_tensor.reshape %y : tensor<1x1x4x16xf32> to tensor<1x1x64xf32>
  mpk_tensor.store_state "x", %z : tensor<1x1x64xf32>
  mpk_tensor.store_state "kc", %kr : tensor<1x2x80x16xf32>
  mpk_tensor.store_state "vc", %vr : tensor<1x2x80x16xf32>"""
"""Attention over more of a cache with every step."""


@dataclass
class Running:
    source: str
    program: CpuProgram
    buffers: dict[str, torch.Tensor]


@pytest.fixture
def schedule(partition: Callable[..., ModuleOp]) -> Callable[..., Running]:
    """schedule(ops, policy, workers): a step, compiled and verified."""

    def run(ops: str, policy: str, workers: int, values: Mapping[str, Any]) -> Running:
        text = f"func.func @step() {{ {ops}\nfunc.return }}"
        module = partition(text, workers, min_elements=4)
        pipeline = (
            f"{LOWER},mpk-schedule-tasks{{workers={workers} policy={policy}}},mpk-verify-schedule"
        )
        passes = Universe.get_multiverse().all_passes
        PassPipeline.parse_spec(passes, pipeline).apply(context(), module)
        module.verify()
        buffers = {
            b.name: torch.full(b.shape, b.initial, dtype=getattr(torch, b.dtype))
            for b in buffers_of(module)
        }
        for name, value in values.items():
            buffers[name].copy_(value)
        source = emit(bodies_of(module), workers, 1)
        program = CpuProgram(build(source), table_of(module), list(buffers.values()))
        return Running(source, program, buffers)

    return run


def fork_values() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    weights = {name: torch.randn(64, 64) / 4 for name in "abc"}
    return weights | {"x": torch.randn(1, 64)}


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_same_bits_as_a_static_schedule(schedule: Callable[..., Running], workers: int) -> None:
    """Many steps in many launches, more workers than cores."""
    values = fork_values()
    static = schedule(FORK, "round-robin", workers, values)
    dynamic = schedule(FORK, "dynamic", workers, values)
    table = dynamic.program.table
    assert static.program.table.dynamic_count == 0
    assert 0 < table.first_dynamic < table.dynamic_count
    for steps in (1, 2, 300, 1, 40):
        assert static.program.run(0, steps) == dynamic.program.run(0, steps) == steps
        assert torch.equal(static.buffers["x"], dynamic.buffers["x"])
    assert dynamic.buffers["x"].abs().mean() > 0.1


def test_hybrid_gives_out_attention_only(schedule: Callable[..., Running]) -> None:
    torch.manual_seed(0)
    values = {"x": torch.randn(1, 1, 64), "w": torch.randn(128, 64) / 4}
    static = schedule(ATTENTION, "round-robin", 2, values)
    hybrid = schedule(ATTENTION, "hybrid", 2, values)
    table = hybrid.program.table
    given_out = {
        table.names.bodies[b] for b in table.families[table.tasks[table.first_dynamic :, 0], 0]
    }
    assert [name.rpartition("_")[0] for name in given_out] == ["attention_split"]
    for position, steps in ((0, 1), (1, 30), (31, 49)):
        assert static.program.run(position, steps) == hybrid.program.run(position, steps) == steps
        for name in ("x", "kc", "vc"):
            assert torch.equal(static.buffers[name], hybrid.buffers[name]), name


def test_while_others_use_the_cores(schedule: Callable[..., Running]) -> None:
    """Two programs of five workers at the same time, on whatever cores there are."""
    values = fork_values()
    pair = [schedule(FORK, "dynamic", 5, values) for _ in range(2)]
    threads = [threading.Thread(target=each.program.run, args=(0, 150)) for each in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    static = schedule(FORK, "round-robin", 5, values)
    static.program.run(0, 150)
    for each in pair:
        assert torch.equal(each.buffers["x"], static.buffers["x"])


def test_epochs_wrap_around(schedule: Callable[..., Running]) -> None:
    values = fork_values()
    wrapped, plain = (schedule(FORK, "dynamic", 2, values) for _ in range(2))
    program, epoch = wrapped.program, 2**32 - 3
    places = (program.table.dynamic_count + 1 - np.arange(2)) // 2
    program._epoch = epoch
    program._counters[:] = program.table.events.astype(np.uint32) * np.uint32(epoch)
    program._queues[:, 0] = epoch << 32
    program._queues[:, 8] = (places * epoch) % 2**32
    assert program.run(0, 6) == plain.program.run(0, 6) == 6
    assert torch.equal(wrapped.buffers["x"], plain.buffers["x"])
    assert program._epoch == 3


@pytest.mark.parametrize("workers", [1, 3])
def test_stop_token(schedule: Callable[..., Running], counting: str, workers: int) -> None:
    """A dynamic task ends the loop; the next launch goes on where this one ended."""
    step = schedule(counting, "dynamic", workers, {"t": torch.eye(40).roll(1, 1)})
    tokens = step.buffers["tokens"]
    tokens[:3] = torch.tensor([4, 12, 8])
    assert step.program.run(0, 30) == 6
    assert tokens[:8].tolist() == [4, 12, 8, 9, 10, 11, 12, -1]
    assert step.program.run(6, 4) == 4
    tokens[10] = 28
    assert step.program.run(10, 22) == 2
    assert tokens[10:14].tolist() == [28, 29, 30, -1]


def test_watchdog(schedule: Callable[..., Running]) -> None:
    """A dynamic task whose signal never comes; afterwards the program runs again."""
    values = fork_values()
    step, fresh = (schedule(FORK, "dynamic", 2, values) for _ in range(2))
    program = step.program
    whole = program.table.tasks.copy()
    program.watchdog_s = 0.05
    program.table.tasks[-1, TaskField.SIGNAL_EVENT] = -1
    text = (
        r"^(the end of the step|task \S+\[\d+\]): worker \d waited more than 0.05 s for event end"
    )
    with pytest.raises(MpkirError, match=text):
        program.run(0, 3)
    program.table.tasks[:] = whole
    program.watchdog_s = 10.0
    step.buffers["x"].copy_(values["x"])
    assert program.run(0, 3) == fresh.program.run(0, 3) == 3
    assert torch.equal(step.buffers["x"], fresh.buffers["x"])


def test_table_and_binary_of_different_schedules(schedule: Callable[..., Running]) -> None:
    values = fork_values()
    static, dynamic = (schedule(FORK, policy, 2, values) for policy in ("round-robin", "dynamic"))
    binary = build(dynamic.source)
    with pytest.raises(MpkirError, match=r"has 0 tasks to give out .* the binary serves queues"):
        CpuProgram(binary, static.program.table, list(static.buffers.values()))
