"""Event level: right numbers in any order, and each way of being wrong reported by name."""

from collections.abc import Callable

import numpy as np
import pytest

from mpkir.backends.interpreter import event_level, task_level
from mpkir.backends.interpreter.memory import initial_states
from mpkir.errors import MpkirError

PROGRAM = """
func.func @step() {{
  %x = mpk_task.buffer input "x" : memref<1x8xf32>
  %w = mpk_task.buffer weight "w" : memref<12x8xf32>
  %v = mpk_task.buffer weight "v" : memref<6x12xf32>
  %h = mpk_task.buffer scratch "h" : memref<1x12xf32>
  %y = mpk_task.buffer output "y" : memref<1x6xf32>
  mpk_event.tensor @h counters 1 arrivals [3]
  mpk_event.tensor @end counters 1 arrivals [2]
  mpk_task.grid @up [3] reads(%x, %w : memref<1x8xf32>, memref<12x8xf32>)
    writes(%h : memref<1x12xf32>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 8]>,
      #mpk_task.region<affine_map<(d0) -> (d0 * 4, 0)>, [4, 8]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>]
    {up_waits} signals [#mpk_event.edge<@h, affine_map<(d0) -> (0)>>] {up_placement} {{
  ^bb0(%0 : tensor<1x8xf32>, %1 : tensor<4x8xf32>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x8xf32>, [tensor<4x8xf32>] to tensor<1x4xf32>
    mpk_task.yield %2 : tensor<1x4xf32>
  }}
  mpk_task.grid @down [2] reads(%h, %v : memref<1x12xf32>, memref<6x12xf32>)
    writes(%y : memref<1x6xf32>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 12]>,
      #mpk_task.region<affine_map<(d0) -> (d0 * 4, 0)>, [4, 12]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>]
    {down_waits} signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>] {down_placement} {{
  ^bb0(%0 : tensor<1x12xf32>, %1 : tensor<4x12xf32>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x12xf32>, [tensor<4x12xf32>] to tensor<1x4xf32>
    mpk_task.yield %2 : tensor<1x4xf32>
  }}
  func.return
}}
"""
FILLED = {
    "up_waits": "waits [#mpk_event.edge<@end, affine_map<(d0) -> (0)>, lag 1>]",
    "down_waits": "waits [#mpk_event.edge<@h, affine_map<(d0) -> (0)>>]",
    "up_placement": "workers [0, 1, 2] slots [0, 0, 0]",
    "down_placement": "workers [1, 3] slots [1, 0]",
}
Text = Callable[..., str]


def program(**changes: str) -> str:
    return PROGRAM.format(**(FILLED | changes))


@pytest.fixture
def arrays(parse, random_weights):
    return random_weights(parse(program())), {"x": np.arange(8, dtype=np.float32).reshape(1, 8)}


@pytest.mark.parametrize("order", ["random", "eager"])
@pytest.mark.parametrize("placed", [True, False])
def test_any_order_gives_the_numbers_of_the_task_level(parse, arrays, order, placed) -> None:
    weights, inputs = arrays
    changes = {} if placed else {"up_placement": "", "down_placement": ""}
    module = parse(program(**changes))
    expected = task_level.run_step(module, weights, {}, inputs, 0)["y"]
    for seed in range(5):
        run = event_level.run_steps(module, weights, {}, inputs, 0, 4, seed, order=order)
        assert run.steps_done == 4
        np.testing.assert_array_equal(run.outputs["y"], expected)


def test_missing_wait_is_a_race_in_every_order(parse, arrays) -> None:
    weights, inputs = arrays
    module = parse(program(down_waits=""))
    for seed in range(20):
        with pytest.raises(MpkirError, match=r"race on buffer 'h': .*(up|down).*(up|down)"):
            event_level.run_steps(module, weights, {}, inputs, 0, seed=seed)


def test_unchecked_race_shows_in_the_numbers(parse, arrays) -> None:
    """The eager order reads what has not been written yet."""
    weights, inputs = arrays
    module = parse(program(down_waits=""))
    run = event_level.run_steps(module, weights, {}, inputs, 0, check_races=False, order="eager")
    assert np.isnan(run.outputs["y"]).any()


def test_overwriting_before_the_last_step_has_read_is_a_race(parse, arrays) -> None:
    weights, inputs = arrays
    module = parse(program(up_waits=""))
    event_level.run_steps(module, weights, {}, inputs, 0, steps=1)
    for seed in range(20):
        with pytest.raises(MpkirError, match=r"race on buffer 'h'|fires too early"):
            event_level.run_steps(module, weights, {}, inputs, 0, steps=3, seed=seed)


def test_program_order_on_a_worker_counts(parse, arrays) -> None:
    weights, inputs = arrays
    one = {"up_placement": "workers [0, 0, 0] slots [0, 1, 2]", "up_waits": ""}
    one |= {"down_placement": "workers [0, 0] slots [3, 4]", "down_waits": ""}
    run = event_level.run_steps(parse(program(**one)), weights, {}, inputs, 0, steps=3)
    assert run.steps_done == 3


def test_deadlock_names_workers_tasks_and_events(parse, arrays) -> None:
    weights, inputs = arrays
    module = parse(program(up_waits=FILLED["up_waits"].replace(", lag 1", "")))
    with pytest.raises(
        MpkirError,
        match=r"deadlock, 4 workers wait forever: up\[0\] of step 0 on worker 0 "
        r"has seen 0 of 2 arrivals of event @end\[0\]",
    ):
        event_level.run_steps(module, weights, {}, inputs, 0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("@h counters 1 arrivals [3]", "@h counters 1 arrivals [2]", r"@h\[0\] wants 2 .* gets 3"),
        ("edge<@h, affine_map<(d0) -> (0)>", "edge<@i, affine_map<(d0) -> (0)>", "@i, which does"),
        (
            "signals [#mpk_event.edge<@h, affine_map<(d0) -> (0)>",
            "signals [#mpk_event.edge<@h, affine_map<(d0) -> (d0)>",
            r"@up at \(1,\) uses counter 1 of event @h, which has 1",
        ),
        ("slots [1, 0]", "slots [0, 0]", r"up\[1\] and down\[0\] both have slot 0 of worker 1"),
        ("workers [1, 3] slots [1, 0]", "", "@down has no workers or slots, though @up has"),
    ],
)
def test_inconsistent_schedule_is_refused(parse, arrays, old, new, message) -> None:
    weights, inputs = arrays
    with pytest.raises(MpkirError, match=message):
        event_level.run_steps(parse(program().replace(old, new)), weights, {}, inputs, 0)


def test_reading_what_nobody_writes_is_reported(parse, arrays) -> None:
    weights, inputs = arrays
    module = parse(
        program()
        .replace("@up [3]", "@up [2]")
        .replace("[3]\n", "[2]\n")
        .replace("workers [0, 1, 2] slots [0, 0, 0]", "workers [0, 1] slots [0, 0]")
    )
    with pytest.raises(MpkirError, match="an element of buffer 'h' is read that no task"):
        event_level.run_steps(module, weights, {}, inputs, 0)


LOOP = """
func.func @step() {{
  %tokens = mpk_task.buffer state "tokens" initial -1 : memref<9xi64>
  %count = mpk_task.buffer state "count" : memref<1xi64>
  mpk_event.tensor @end counters 1 arrivals [2]
  mpk_task.grid @append [1] reads(%tokens : memref<9xi64>) writes(%tokens : memref<9xi64>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0)>, [9]>,
      #mpk_task.region<affine_map<(d0) -> (0)>, [9]>]
    {wait} signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>] workers [0] slots [0] {{
  ^bb0(%0 : tensor<9xi64>):
    %1 = mpk_tensor.position : tensor<1xi64>
    %2 = mpk_tensor.sequence_append %0, %1 at %1 stop [3]
      : (tensor<9xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<9xi64>
    mpk_task.yield %2 : tensor<9xi64>
  }}
  mpk_task.grid @count [1] reads(%count : memref<1xi64>) writes(%count : memref<1xi64>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0)>, [1]>,
      #mpk_task.region<affine_map<(d0) -> (0)>, [1]>]
    {wait} signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>] workers [1] slots [0] {{
  ^bb0(%0 : tensor<1xi64>):
    %1 = mpk_tensor.elementwise %0 {{
    ^bb1(%a : i64):
      %b = arith.constant 1 : i64
      %c = arith.addi %a, %b : i64
      mpk_tensor.yield %c : i64
    }} : (tensor<1xi64>) -> tensor<1xi64>
    mpk_task.yield %1 : tensor<1xi64>
  }}
  func.return
}}
"""


def test_stop_token_ends_the_launch_after_its_step(parse) -> None:
    module = parse(
        LOOP.format(wait="waits [#mpk_event.edge<@end, affine_map<(d0) -> (0)>, lag 1>]")
    )
    for seed in range(10):
        states = initial_states(module)
        run = event_level.run_steps(module, {}, states, {}, 0, steps=7, seed=seed)
        assert run.steps_done == 4
        assert states["tokens"].tolist() == [-1, 0, 1, 2, 3, -1, -1, -1, -1]
        assert states["count"].tolist() == [4]


def test_task_that_runs_after_the_stop_is_reported(parse) -> None:
    module = parse(LOOP.format(wait=""))
    with pytest.raises(MpkirError, match=r"append\[0\] stops the loop after step 3, but worker 1"):
        event_level.run_steps(module, {}, initial_states(module), {}, 0, steps=7, order="eager")
