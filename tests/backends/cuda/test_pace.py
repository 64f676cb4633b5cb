"""How fast a program's loaders ask for weights, and how far behind a full ring."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from mpkir.backends.body import bodies_of
from mpkir.backends.cuda.emit import emit
from mpkir.backends.cuda.pace import Pace, pace_of
from mpkir.machine import Machine, machine_named
from mpkir.pipeline import context

FAMILIES = 2


def _module(rows: str = "1", stream: str = "stream <[1], rows 50, parts 1>") -> ModuleOp:
    """A product of `rows` ("2x3") rows of x and 32000 bytes of weights, and a family that waits."""
    x, box, y = f"{rows}x64xbf16", rows.replace("x", ", "), f"{rows}x250xbf16"
    zeros = ", ".join("0" for _ in rows.split("x"))
    return Parser(
        context(),
        f"""
        func.func @step() {{
          %x = mpk_task.buffer input "x" : memref<{x}>
          %w = mpk_task.buffer weight "w" : memref<250x64xbf16>
          %y = mpk_task.buffer output "y" : memref<{y}>
          mpk_task.grid @product [5] reads(%x, %w : memref<{x}>, memref<250x64xbf16>)
            writes(%y : memref<{y}>) boxes [
              #mpk_task.region<affine_map<(d0) -> ({zeros}, 0)>, [{box}, 64]>,
              #mpk_task.region<affine_map<(d0) -> (d0 * 50, 0)>, [50, 64]>,
              #mpk_task.region<affine_map<(d0) -> ({zeros}, d0 * 50)>, [{box}, 50]>] {stream} {{
          ^bb0(%0 : tensor<{x}>, %1 : tensor<50x64xbf16>):
            %2 = mpk_tensor.linear %0, [%1]
                : tensor<{x}>, [tensor<50x64xbf16>] to tensor<{rows}x50xbf16>
            mpk_task.yield %2 : tensor<{rows}x50xbf16>
          }}
          mpk_task.grid @join [1] boxes [] {{
            mpk_task.yield
          }}
          func.return
        }}
        """,
    ).parse_module()


def _machine(share: float, **ring: Any) -> Machine:
    """Weights stream in 1 us, of which a stage's share is 500 cycles, and families wait `share` of
    that."""
    machine = machine_named("h100", workers=10)
    given = {
        "exposed_us": share / FAMILIES,
        "slot_bytes": 16000,
        "clock_mhz": 100,
        "margin": None,
        "waits_from": 0.25,
        "long_from": 512,
        "ahead": 8,
        "ahead_rows": 6,
        "ahead_below": 0.0625,
    }
    return replace(machine, memory_bandwidth=32, ring=replace(machine.ring, **given | ring))


@pytest.mark.parametrize(
    ("share", "ring", "cycles", "long_cycles", "long_from"),
    [
        (0.5, {}, 750, 750, 512),
        (0.5, {"margin": 0.04}, 520, 750, 512),
        (0.5, {"margin": 0.0}, 500, 750, 512),
        (0.5, {"margin": 0.6}, 800, 800, 512),  # never faster where caches are long
        (0.5, {"margin": 0.04, "long_from": 0}, 520, 750, 0),
        (0.5, {"margin": 0.04, "pace": 600}, 600, 600, 512),
        (0.5, {"margin": 0.04, "pace": 0}, 0, 0, 512),
        (0.0, {"margin": 0.04}, 0, 0, 0),
        (0.0, {"margin": 0.04, "pace": 600}, 600, 600, 0),
    ],
)
def test_a_stage_has_its_share_of_time_and_a_margin(
    share: float, ring: dict[str, Any], cycles: int, long_cycles: int, long_from: int
) -> None:
    pace = pace_of(_module(), _machine(share, **ring))
    assert pace == Pace(cycles, long_cycles, long_from, ahead=0)


@pytest.mark.parametrize(
    ("rows", "share", "ring", "ahead"),
    [
        ("6", 0.25, {}, 8),
        ("2x3", 0.25, {}, 8),
        ("5", 0.25, {}, 0),
        ("6", 0.26, {}, 0),
        ("6", 0.25, {"ahead": 3}, 3),
        ("6", 0.25, {"ahead_rows": 0}, 0),
        ("6", 0.0, {}, 0),
        ("1", 0.06, {}, 8),
        ("1", 0.0625, {}, 0),
        ("6", 0.06, {"waits_from": 0.0}, 8),
        ("1", 0.06, {"ahead": 0}, 0),
    ],
)
def test_what_is_asked_for_behind_a_full_ring(
    rows: str, share: float, ring: dict[str, Any], ahead: int
) -> None:
    module, machine = _module(rows), _machine(share, **ring)
    assert pace_of(module, machine).ahead == ahead
    source = emit(bodies_of(module), machine, 1)
    # So many tasks have to be known; elsewhere they would take memory from the ring.
    assert ("#define MPK_QUEUE 32\n" in source.partition("#include")[0]) == (ahead > 0)
    assert source.count("MPK_QUEUE") == (ahead > 0)
    assert f"  static constexpr int ahead = {ahead};\n" in source


def test_no_pace_where_nothing_streams() -> None:
    assert pace_of(_module(stream=""), _machine(0.5)) == Pace(0, 0, 0, 0)


def test_a_kernel_has_its_pace_as_constants() -> None:
    source = emit(bodies_of(_module()), _machine(0.5, ease=3, margin=0.04), 1)
    assert "  static constexpr int ease = 3, pace = 520;\n" in source
    assert "  static constexpr int long_pace = 750, long_from = 512;\n" in source
