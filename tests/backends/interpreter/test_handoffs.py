"""How far hand-offs reach when a program is played, and orders that hold one worker back."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from mpkir.backends.interpreter import event_level, task_level
from mpkir.backends.interpreter.memory import initial_states
from mpkir.backends.interpreter.orders import Ahead, Delay, choose
from mpkir.errors import MpkirError

TWO_GPU = Path(__file__).parents[3] / "benchmarks" / "graphs" / "two-gpu.mlir"
FLAGS = ("arrivals [4]\n", "arrivals [4] handoff flag\n")
ORDERS = ["random", "eager", *map(Delay, range(4)), *map(Ahead, range(4))]
TAGS = ('"p" exchange :', '"p" exchange flagged :')


def text(old: str = "", new: str = "") -> str:
    found = TWO_GPU.read_text(encoding="utf-8")
    assert old in found
    return found.replace(old, new)


@pytest.fixture
def play(parse, random_weights):
    def run(changed: str, order="random", steps: int = 3):
        module = parse(changed)
        weights, states = random_weights(module), initial_states(module)
        for state in states.values():
            state[...] = np.linspace(-1, 1, state.size).reshape(state.shape)
        return event_level.run_steps(module, weights, states, {}, 0, steps, order=order), states

    return run


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("change", [("", ""), FLAGS, TAGS])
def test_both_ranks_have_the_sum(parse, random_weights, play, order, change) -> None:
    module = parse(text(*change))
    weights, expected = random_weights(module), initial_states(module)
    for state in expected.values():
        state[...] = np.linspace(-1, 1, state.size).reshape(state.shape)
    program = task_level.TaskProgram(module, weights)
    for step in range(3):
        outputs = program.step(expected, {}, step)
    run, states = play(text(*change), order)
    for name, value in (run.outputs | states).items():
        np.testing.assert_array_equal(value, (outputs | expected)[name])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("arrivals [2] handoff peer", "arrivals [2]", "wants 2 arrivals a step and gets 1"),
        ("arrivals [2] handoff peer", "arrivals [1]", "race on buffer 'p'"),
        ("arrivals [2] handoff peer", "arrivals [1] handoff flag", "race on buffer 'p'"),
        ("arrivals [4] handoff peer", "arrivals [2]", "race on buffer 'p': sum.* of rank"),
        ("arrivals [4]\n", "arrivals [4] handoff local\n", "deadlock, .*down.* of event @h"),
        ("stream <[1], rows 2", "stream <[0], rows 2", "has 'h' read by the loader"),
        ("stream <[1], rows 2", "stream <[1, 1], rows 2", "leaves Stage.* for the next task"),
        ("stream <[1], rows 2", "stream <[1], rows 9", "written over the end of its slot"),
        ("writes(%k :", "writes(%own :", "race on buffer 'p'"),
    ],
)
def test_what_reaches_too_far_fails(play, old: str, new: str, message: str) -> None:
    with pytest.raises(MpkirError, match=message):
        play(text(old, new))


TWICE = """
module attributes {mpk.workers = 2} {
  func.func @step() {
    %x = mpk_task.buffer scratch "x" : memref<8xf32>
    %y = mpk_task.buffer output "y" : memref<8xf32>
    mpk_event.tensor @f counters 1 arrivals [1] handoff flag
    mpk_event.tensor @end counters 1 arrivals [1]
    mpk_task.grid @early [1] writes(%x : memref<8xf32>)
        boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [8]>]
        waits [#mpk_event.edge<@end, affine_map<(d0) -> (0)>, lag 1>] workers [0] slots [0] {
      %0 = mpk_tensor.full 1.0 : f32 : tensor<8xf32>
      mpk_task.yield %0 : tensor<8xf32>
    }
    mpk_task.grid @late [1] writes(%x : memref<8xf32>)
        boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [8]>]
        signals [#mpk_event.edge<@f, affine_map<(d0) -> (0)>>] workers [0] slots [1] {
      %0 = mpk_tensor.full 2.0 : f32 : tensor<8xf32>
      mpk_task.yield %0 : tensor<8xf32>
    }
    mpk_task.grid @read [1] reads(%x : memref<8xf32>) writes(%y : memref<8xf32>)
        boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [8]>,
               #mpk_task.region<affine_map<(d0) -> (0)>, [8]>]
        waits [#mpk_event.edge<@f, affine_map<(d0) -> (0)>>]
        signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>] workers [1] slots [0] {
    ^bb0(%0 : tensor<8xf32>):
      mpk_task.yield %0 : tensor<8xf32>
    }
    func.return
  }
}
"""


def test_a_tag_of_another_write_is_taken_for_the_right_one(play) -> None:
    """Only who looks late enough sees the tag of the second write of the step."""
    run, _ = play(TWICE, Delay(1), steps=1)
    assert (run.outputs["y"] == 2).all()
    with pytest.raises(MpkirError, match=r"race on buffer 'x': read\[0\] .* and late\[0\]"):
        play(TWICE, Ahead(1), steps=1)


def test_orders() -> None:
    rng = random.Random(0)
    ready = [3, 1, 2]
    assert {ready[choose(Delay(1), ready, rng, lambda w: (0, w))] for _ in range(50)} == {2, 3}
    assert choose(Delay(1), [1], rng, lambda w: (0, w)) == 0
    assert ready[choose(Ahead(2), ready, rng, lambda w: (0, w))] == 2
    assert ready[choose("eager", ready, rng, lambda w: (w == 1, w))] == 1
