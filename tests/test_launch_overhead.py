"""What a launch costs is taken apart rightly: with a clock and a GPU whose times are known."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
STEP, ENQUEUE, START, FILL, SEEN, ENDED = 500.0, 8.0, 4.0, 6.0, 1.0, 5.0


class Gpu:
    """A step takes STEP, and the first FILL longer."""

    tells = True

    def __init__(self) -> None:
        self.now = self.begun = 0.0

    def clock(self) -> float:
        return self.now * 1e-6

    def done(self, steps: int) -> float:
        """When so many steps are."""
        return self.begun + START + (FILL + steps * STEP if steps else 0.0)

    def launch(self, position: int, steps: int) -> None:
        assert position == 32
        self.now += ENQUEUE
        self.begun = self.now

    def told(self, step: int) -> list[int]:
        self.now = max(self.now, self.done(step + 1) + SEEN)
        return [step]

    def finish(self, steps: int) -> int:
        self.now = max(self.now, self.done(steps) + ENDED)
        return steps

    def run(self, position: int, steps: int) -> int:
        self.launch(position, steps)
        return self.finish(steps)


def test_a_launch_is_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script: dict[str, Any] = runpy.run_path(str(BENCHMARKS / "launch_overhead.py"))
    gpu = Gpu()
    launches = script["Launches"](gpu, 32, gpu.clock)
    found, others = script["split"](launches, {"other": lambda: 3.0})
    assert others == {"other": 3.0}
    assert found == pytest.approx(
        {
            "step_us": STEP,
            "step_seen_us": STEP,
            "first_token_us": ENQUEUE + START + FILL + SEEN,
            "first_of_more_us": ENQUEUE + START + FILL + SEEN,
            "launch_us": ENQUEUE + START + FILL + ENDED,
            "launch_of_two_us": ENQUEUE + START + FILL + ENDED,
            "empty_us": ENQUEUE + START + ENDED,
            "enqueue_us": ENQUEUE,
        }
    )
