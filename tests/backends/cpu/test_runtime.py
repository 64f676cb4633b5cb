"""Building, launching and failing: what a user sees when something is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mpkir.backends.body import bodies_of
from mpkir.backends.cpu.emit import emit
from mpkir.errors import MpkirError
from mpkir.runtime.cpu import CpuProgram, build
from mpkir.runtime.table import Table, TaskField

CHAIN = """
  %x = mpk_tensor.state "x" : tensor<64xf32>
  %y = mpk_tensor.elementwise %x {
  ^bb0(%0 : f32):
    %1 = arith.constant 1.0 : f32
    %2 = arith.addf %0, %1 : f32
    mpk_tensor.yield %2 : f32
  } : (tensor<64xf32>) -> tensor<64xf32>
  %z = mpk_tensor.elementwise %y {
  ^bb0(%0 : f32):
    %2 = arith.addf %0, %0 : f32
    mpk_tensor.yield %2 : f32
  } : (tensor<64xf32>) -> tensor<64xf32>
  mpk_tensor.store_state "x", %z : tensor<64xf32>"""


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_steps_hand_over_to_each_other(start, workers: int):
    """More workers than cores, many steps in a launch, several launches."""
    step = start(CHAIN, workers=workers, min_elements=4)
    expected = torch.zeros(64, dtype=torch.float64)
    for steps in (1, 50, 7):
        step.buffers["x"].fill_(0)
        assert step.program.run(0, steps) == steps
        expected = 2.0 * (2.0**steps - 1)
        torch.testing.assert_close(step.buffers["x"], torch.full((64,), expected))


def test_epochs_wrap_around(start):
    step = start(CHAIN, min_elements=4)
    events = step.program.table.events.astype(np.uint32)
    step.program._epoch = 2**32 - 3
    step.program._counters[:] = events * np.uint32(2**32 - 3)
    assert step.program.run(0, 6) == 6
    assert step.buffers["x"][0] == 2 * (2.0**6 - 1)
    assert step.program._epoch == 3


def broken(table: Table) -> Table:
    """The same with one signal that never comes, so that the next family waits for ever."""
    tasks = table.tasks.copy()
    tasks[0, TaskField.SIGNAL_EVENT] = -1
    return Table(tasks, table.workers, table.families, table.events, table.names)


def test_watchdog_names_who_waits_for_what(start):
    step = start(CHAIN, min_elements=4)
    program = step.program
    whole, program.table = program.table, broken(program.table)
    program.watchdog_s = 0.05
    text = r"^task \S+\[\d+\]: worker \d waited more than 0.05 s for event done\.\S+, which stands"
    with pytest.raises(MpkirError, match=text) as caught:
        program.run(0, 3)
    lines = str(caught.value).splitlines()
    event, family = whole.names.events[0], whole.names.families[0]
    arrivals = whole.events[0]
    # The one whose signal is missing first: both workers stand before the next family.
    assert lines[1] == "2 of 2 workers stand:"
    assert lines[2].startswith(f"- event {event} has {arrivals - 1} of {arrivals} arrivals in step")
    assert lines[2].count(" on ") == 2
    assert lines[3].endswith(f"of its families {family}[0] signal nothing")
    step.buffers["x"].fill_(0)
    program.table = whole
    assert program.run(0, 3) == 3  # counters were reset
    assert step.buffers["x"][0] == 14


def test_watchdog_says_where_those_stand_that_have_not_signalled(start):
    """Worker 1 never comes to its part of the second family, so the third waits for both."""
    step = start(CHAIN, workers=3, min_elements=4)
    program = step.program
    tasks = program.table.tasks.copy()
    (late,) = program.table.workers[1:2] + 1  # the second of worker 1
    tasks[late, TaskField.WAIT_ARRIVALS] += 1  # never reached
    table = program.table
    program.table = Table(tasks, table.workers, table.families, table.events, table.names)
    program.watchdog_s = 0.05
    with pytest.raises(MpkirError) as caught:
        program.run(0, 1)
    assert f"not signalled: {table.task_label(late)} on 1" in str(caught.value)


def test_runs_repeat_bit_for_bit(start):
    step = start(
        """
      %x = mpk_tensor.input "x" : tensor<1x3x200xbf16>
      %w = mpk_tensor.weight "w" : tensor<77x200xbf16>
      %y = mpk_tensor.linear %x, [%w] : tensor<1x3x200xbf16>, [tensor<77x200xbf16>] to
        tensor<1x3x77xf32>
      mpk_tensor.output "y", %y : tensor<1x3x77xf32>""",
        workers=3,
    )
    x, w = torch.randn(1, 3, 200).bfloat16(), torch.randn(77, 200).bfloat16()
    first = step(x=x, w=w)["y"].clone()
    for _ in range(20):
        assert torch.equal(step(x=x)["y"], first)


def test_no_compiler(no_compiler: None):
    with pytest.raises(MpkirError, match=r"no C\+\+ compiler on this machine.*; install g\+\+"):
        build("int x;")


def test_wrong_compiler(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    with pytest.raises(
        MpkirError, match=r"\$CXX names 'no-such-compiler -m64', which is no program"
    ):
        build("int x;")


def test_compiler_with_arguments(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "g++ -DANSWER=42")
    assert build('extern "C" int answer() { return ANSWER; }').exists()


def test_text_that_does_not_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MPKIR_CACHE", str(tmp_path))
    with pytest.raises(MpkirError, match="cannot compile the program") as caught:
        build("int x = nothing;")
    assert "nothing" in str(caught.value)
    assert [path.suffix for path in (tmp_path / "cpu").iterdir()] == [".cpp"]


def test_what_was_built_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MPKIR_CACHE", str(tmp_path))
    first = build("int x;")
    made = first.stat().st_mtime_ns
    assert build("int x;") == first
    assert first.stat().st_mtime_ns == made
    assert build("int y;") != first


def test_binary_that_does_not_fit(start, tmp_path: Path):
    step = start(CHAIN, workers=2)
    table, buffers = step.program.table, list(step.buffers.values())
    binary = build(step.source)
    with pytest.raises(MpkirError, match="buffers for a program that has"):
        CpuProgram(binary, table, buffers[:-1])
    with pytest.raises(MpkirError, match="is not contiguous"):
        CpuProgram(binary, table, [torch.zeros(64, 2)[:, 0], *buffers[1:]])
    other = build(step.source.replace("workers = 2", "workers = 3"))
    with pytest.raises(MpkirError, match="the binary has 3 workers, the table 2"):
        CpuProgram(other, table, buffers)
    damaged = tmp_path / "kernel.so"
    for content, what in ((binary.read_bytes()[:5000], "cut short"), (b"text", "no 64-bit ELF")):
        damaged.write_bytes(content)
        with pytest.raises(MpkirError, match=f"the binary cannot be loaded .*{what}"):
            CpuProgram(damaged, table, buffers)


def test_numpy_buffers(start):
    step = start(CHAIN)
    arrays = [np.zeros(64, np.float32) for _ in step.buffers]
    CpuProgram(build(step.source), step.program.table, arrays).run(0, 2)
    assert arrays[list(step.buffers).index("x")][0] == 6


def test_operator_without_a_form_is_named(partition):
    text = """func.func @step() {
      %x = mpk_tensor.input "x" : tensor<4xi32>
      %y = mpk_tensor.elementwise %x {
      ^bb0(%0 : i32):
        %1 = math.ctpop %0 : i32 loc("model.py":7:1)
        mpk_tensor.yield %1 : i32
      } : (tensor<4xi32>) -> tensor<4xi32>
      mpk_tensor.output "y", %y : tensor<4xi32>
      func.return
    }"""
    with pytest.raises(MpkirError, match=re.escape("'math.ctpop' of i32 has no form in C++")):
        emit(bodies_of(partition(text, 2)), 2, 1)


def test_attention_must_write_its_caches(partition):
    """A body that another pass built wrongly is refused, not printed."""
    text = """func.func @step() {
      %k = mpk_task.buffer scratch "k" : memref<1x1x1x8xbf16>
      %c = mpk_task.buffer state "c" : memref<1x1x9x8xbf16>
      mpk_task.grid @a [1] reads(%k, %c : memref<1x1x1x8xbf16>, memref<1x1x9x8xbf16>)
        writes(%k : memref<1x1x1x8xbf16>) boxes [
          #mpk_task.region<affine_map<(d0) -> (0, 0, 0, 0)>, [1, 1, 1, 8]>,
          #mpk_task.region<affine_map<(d0) -> (0, 0, 0, 0)>, [1, 1, 9, 8]>,
          #mpk_task.region<affine_map<(d0) -> (0, 0, 0, 0)>, [1, 1, 1, 8]>] {
      ^bb0(%0 : tensor<1x1x1x8xbf16>, %1 : tensor<1x1x9x8xbf16>):
        %p = mpk_tensor.position : tensor<1xi64>
        %2, %3, %4 = mpk_tensor.attention %0, %0, %0 cache %1, %1 at %p scale 1.0 :
          (tensor<1x1x1x8xbf16>, tensor<1x1x1x8xbf16>, tensor<1x1x1x8xbf16>, tensor<1x1x9x8xbf16>,
            tensor<1x1x9x8xbf16>, tensor<1xi64>) -> (tensor<1x1x1x8xbf16>, tensor<1x1x9x8xbf16>,
              tensor<1x1x9x8xbf16>)
        mpk_task.yield %2 : tensor<1x1x1x8xbf16>
      }
      func.return
    }"""
    from xdsl.parser import Parser

    from mpkir.pipeline import context

    module = Parser(context(), text).parse_module()
    with pytest.raises(MpkirError, match=r"family @a: 'mpk_tensor.attention' of .* does not write"):
        emit(bodies_of(module), 1, 1)
