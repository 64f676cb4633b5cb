"""What benchmarks/check_attention.py runs and compares, on a CPU."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from mpkir.runtime.program import load

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "check_attention.py"))


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def build(*options: str) -> Path:
        where = ("--build", str(tmp_path), "--target", "cpu", "--handoffs", "counter")
        arguments = ["smollm2-135m", "--capacity", "128", *where, *options]
        monkeypatch.setattr(sys, "argv", ["check_attention.py", *arguments])
        SCRIPT["main"]()
        return tmp_path

    return build


def test_a_chain_of_attentions_is_right_wherever_it_begins(build):
    folder = build("--ablate", "attention-chunk=32")
    shape = SCRIPT["SHAPES"]["smollm2-135m"]
    for layers in (SCRIPT["SHORT"], SCRIPT["LONG"]):
        program = load(folder / f"smollm2-135m-{layers}")
        assert all(SCRIPT["check"](shape, program, layers, p) < 0.03 for p in (0, 1, 33, 100))


def test_a_cache_that_holds_what_it_should_not_is_found(build, monkeypatch: pytest.MonkeyPatch):
    program = load(build() / f"smollm2-135m-{SCRIPT['SHORT']}")
    run = program.run

    def runs_a_step_too_many(position: int, steps: int) -> int:
        return run(position, steps + 1)

    monkeypatch.setattr(program, "run", runs_a_step_too_many)
    with pytest.raises(SystemExit, match="kc0 is wrong at position 5"):
        SCRIPT["check"](SCRIPT["SHAPES"]["smollm2-135m"], program, SCRIPT["SHORT"], 5)


def test_an_ablation_that_is_none(build, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        build("--ablate", "ring-cashes=1")
    assert "no ablation is called 'ring-cashes'" in capsys.readouterr().err
