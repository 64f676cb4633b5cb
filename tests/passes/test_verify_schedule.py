"""What verify-schedule says about each kind of mistake."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from xdsl.dialects.builtin import ModuleOp

from mpkir.errors import MpkirError
from mpkir.machine import machine_named, machine_names
from mpkir.passes.verify_schedule import VerifySchedulePass
from mpkir.pipeline import stages

Run = Callable[[str, str], ModuleOp]

ZERO = "affine_map<(d0) -> (0)>"
END = f"#mpk_event.edge<@end, {ZERO}>"
LAST_END = f"#mpk_event.edge<@end, {ZERO}, lag 1>"
FIRST_WAITS = f"waits [{LAST_END}]"
SECOND_WAITS = f"waits [#mpk_event.edge<@e, {ZERO}>]"

GOOD = f"""
module attributes {{mpk.workers = 2}} {{
  func.func @step() {{
    %x = mpk_task.buffer scratch "x" : memref<8xf32>
    %w = mpk_task.buffer weight "w" : memref<16x8xf32>
    %y = mpk_task.buffer output "y" : memref<16xf32>
    mpk_task.ring slots 4 bytes 64 in_flight 2
    mpk_event.tensor @e counters 1 arrivals [2]
    mpk_event.tensor @end counters 1 arrivals [2]
    mpk_task.grid @first [2] writes(%x : memref<8xf32>)
        boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 4)>, [4]>]
        {FIRST_WAITS} signals [#mpk_event.edge<@e, {ZERO}>]
        workers [0, 1] slots [0, 0] {{
      %0 = mpk_tensor.full 1.0 : f32 : tensor<4xf32>
      mpk_task.yield %0 : tensor<4xf32>
    }}
    mpk_task.grid @second [2] reads(%x, %w : memref<8xf32>, memref<16x8xf32>)
        writes(%y : memref<16xf32>)
        boxes [#mpk_task.region<{ZERO}, [8]>,
               #mpk_task.region<affine_map<(d0) -> (d0 * 8, 0)>, [8, 8]>,
               #mpk_task.region<affine_map<(d0) -> (d0 * 8)>, [8]>]
        {SECOND_WAITS} signals [{END}]
        workers [0, 1] slots [1, 1] stream <[1], rows 2, parts 1> {{
    ^bb0(%0 : tensor<8xf32>, %1 : tensor<8x8xf32>):
      %2 = mpk_tensor.linear %0, [%1] : tensor<8xf32>, [tensor<8x8xf32>] to tensor<8xf32>
      mpk_task.yield %2 : tensor<8xf32>
    }}
    func.return
  }}
}}
"""


def test_a_good_schedule(run: Run):
    run(GOOD, "mpk-verify-schedule")


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        (
            SECOND_WAITS,
            "",
            ["race within a step: first[1] (mpk_tensor.full) writes 'x' and second[0]"],
        ),
        (
            FIRST_WAITS,
            "",
            [
                "race from step to step: second[1]",
                "reads 'x' and first[0]",
                "to first[0] is missing",
            ],
        ),
        (
            "(d0 * 8)>, [8]",
            "(d0 * 7)>, [8]",
            ["race within a family: second[1]", "writes 'y' and second[0]"],
        ),
        (
            "arrivals [2]\n    mpk_event.tensor @end",
            "arrivals [1]\n    mpk_event.tensor @end",
            ["e[0] expects 1 arrivals a step, but 2 tasks signal it"],
        ),
        (
            ", lag 1",
            "",
            [
                "deadlock: first[0] (mpk_tensor.full) waits for ever for end[0], which waits for",
                "second[0] (mpk_tensor.linear) on worker 0, which stands behind first[0]",
                "the edge from second[0] closes a circle",
            ],
        ),
        (
            SECOND_WAITS,
            SECOND_WAITS.replace("@e", "@f"),
            ["@second (mpk_tensor.linear) names the event @f"],
        ),
        (
            SECOND_WAITS,
            SECOND_WAITS.replace("(0)", "(d0)"),
            ["second[1] (mpk_tensor.linear) uses counter 1 of @e, which has 1"],
        ),
        (
            "(d0 * 4)>, [4]",
            "(d0 * 3)>, [4]",
            [
                "second[0] (mpk_tensor.linear) reads element 7 of 'x', which no task writes",
                "first[0]",
            ],
        ),
        ("slots [0, 0]", "slots [1, 0]", ["in place 1 of worker 0"]),
        (
            "[0, 1] slots [0, 0]",
            "[0, 2] slots [0, 0]",
            ["first[1] (mpk_tensor.full) is placed on worker 2 of 2"],
        ),
        (
            "workers [0, 1] slots [0, 0]",
            "",
            ["the tasks of @first (mpk_tensor.full) have no workers"],
        ),
        ("attributes {mpk.workers = 2}", "", ["does not say how many workers"]),
        (
            "rows 2",
            "rows 3",
            ["a stage of @second (mpk_tensor.linear) has 96 bytes, a slot of the ring 64"],
        ),
        ("rows 2, parts 1", "rows 1, parts 3", ["no multiples of 16 bytes"]),
        (
            "stream <[1]",
            "stream <[0]",
            ["@second (mpk_tensor.linear) streams 'x'", "it is no weight"],
        ),
        (
            "stream <[1]",
            "stream <[2]",
            ["@second (mpk_tensor.linear) streams its read 2; it has 2 reads"],
        ),
        ("mpk_task.ring slots 4 bytes 64 in_flight 2", "", ["the module has no ring"]),
    ],
)
def test_a_mistake(run: Run, old: str, new: str, parts: list[str]):
    assert old in GOOD
    with pytest.raises(MpkirError) as error:
        run(GOOD.replace(old, new), "mpk-verify-schedule")
    for part in parts:
        assert part in str(error.value)


GRAPHS = Path(__file__).parents[2] / "benchmarks" / "graphs"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {"arrivals [2] handoff peer": "arrivals [1]"},
            [
                "race within a step: down[0] (mpk_tensor.linear) of another rank writes 'p' and",
                "an edge from down[0] to sum[0], with the hand-off 'peer', is missing",
            ],
        ),
        (
            {"arrivals [4] handoff peer": "arrivals [2]"},
            ["race from step to step: sum[0]", "of another rank reads 'p' and down[0]"],
        ),
        (
            {
                "arrivals [4] handoff peer": "arrivals [2]",
                '"p" exchange :': '"p" exchange flagged :',
            },
            ["race from step to step: sum[0]", "of another rank reads 'p' and down[0]"],
        ),
        (
            {"arrivals [2] handoff peer": "arrivals [1] handoff flag"},
            ["sum[0] (mpk_tensor.elementwise) waits by flag for down[0]", "it reads none"],
        ),
        (
            {"arrivals [1] handoff local": "arrivals [1] handoff flag"},
            ["keep[0] (mpk_tensor.elementwise) waits by flag for sum[0]", "it reads none"],
        ),
        (
            {"workers [0, 1] slots [4, 4]": "workers [1, 0] slots [4, 4]"},
            ["on worker 0 and keep[0]", "on worker 1 meet at s[0], whose hand-off is 'local'"],
        ),
        (
            {
                "workers [0, 1] slots [3, 3]": "workers [0, 1] slots [4, 4]",
                "workers [0, 1] slots [4, 4]": "workers [0, 1] slots [3, 3]",
            },
            ["deadlock: keep[0]", "waits for ever for s[0], which waits for sum[0]"],
        ),
        (
            {"writes(%k : memref<1x8xf32>)": "writes(%own : memref<1x8xf32>)"},
            ["race within a step", "sum[0]", "of another rank reads 'p' and keep[0]"],
        ),
        (
            {
                "workers [0, 1] slots [3, 3]": "dynamic",
                "workers [0, 1] slots [4, 4]": "workers [0, 1] slots [3, 3]",
            },
            ["sum[0]", "is given out when its event fires, and 2 ranks run the module"],
        ),
        ({"stream <[1], rows 4": "stream <[1, 1], rows 4"}, ["a stage of 'u' is loaded that nob"]),
        (
            {
                "writes(%k : memref<1x8xf32>)": "writes(%i : memref<1x8xf32>)",
                "  %x =": '  %i = mpk_task.buffer input "i" : memref<1x8xf32>\n  %x =',
            },
            ["keep[0] (mpk_tensor.elementwise) writes 'i', but a buffer of the kind 'input'"],
        ),
    ],
)
def test_two_ranks(run: Run, changes: dict[str, str], parts: list[str]):
    text = (GRAPHS / "two-gpu.mlir").read_text(encoding="utf-8")
    assert all(old in text for old in changes)
    # All at once, so that one change does not undo another.
    pattern = re.compile("|".join(map(re.escape, changes)))
    with pytest.raises(MpkirError) as error:
        run(pattern.sub(lambda found: changes[found.group()], text), "mpk-verify-schedule")
    for part in parts:
        assert part in str(error.value)


APPEND = """
module attributes {mpk.workers = 2} {
  func.func @step() {
    %s = mpk_task.buffer state "tokens" initial -1 : memref<9xi64>
    %x = mpk_task.buffer state "x" : memref<4xf32>
    mpk_event.tensor @end counters 1 arrivals [1]
    mpk_task.grid @other [1] writes(%x : memref<4xf32>)
        boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [4]>] workers [1] slots [0] {
      %0 = mpk_tensor.full 1.0 : f32 : tensor<4xf32>
      mpk_task.yield %0 : tensor<4xf32>
    }
    mpk_task.grid @append [1] reads(%s : memref<9xi64>) writes(%s : memref<9xi64>)
        boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [9]>,
               #mpk_task.region<affine_map<(d0) -> (0)>, [9]>]
        signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>] workers [0] slots [0] {
    ^bb0(%0 : tensor<9xi64>):
      %1 = mpk_tensor.position : tensor<1xi64>
      %2 = mpk_tensor.full 3 : i64 : tensor<1xi64>
      %3 = mpk_tensor.sequence_append %0, %2 at %1 STOP
        : (tensor<9xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<9xi64>
      mpk_task.yield %3 : tensor<9xi64>
    }
    func.return
  }
}
"""


def test_nothing_runs_after_the_stop(run: Run):
    """@other waits for nobody: it may be steps ahead when @append ends the loop."""
    run(APPEND.replace("STOP", ""), "mpk-verify-schedule")
    with pytest.raises(MpkirError, match=r"other\[0\] .* before append\[0\] .* stopped the loop"):
        run(APPEND.replace("STOP", "stop [2]"), "mpk-verify-schedule")


@pytest.mark.parametrize("name", machine_names())
def test_every_compile_ends_with_the_proof(name: str):
    *_, last = stages(machine_named(name))
    assert isinstance(last, VerifySchedulePass)


def test_what_plugins_put_after_the_proof_is_proven_too(monkeypatch: pytest.MonkeyPatch):
    added = {VerifySchedulePass.name: ["mpk-linearize-tasks"]}
    monkeypatch.setattr("mpkir.pipeline.stages_of_plugins", lambda: added)
    *_, proof, extra, again = stages(machine_named("h100"))
    assert (proof, again) == (VerifySchedulePass(), VerifySchedulePass())
    assert extra.name == "mpk-linearize-tasks"
