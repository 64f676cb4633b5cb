"""Tuned choices: found again by the shapes of a step, whatever its names and its capacity."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn
from xdsl.dialects.builtin import ModuleOp

import mpkir
from mpkir import tuned
from mpkir.analysis.step_shapes import step_shapes
from mpkir.errors import MpkirError
from mpkir.frontend import decode_step, model_from_config
from mpkir.machine import machine_named
from mpkir.passes.fuse_operators import FuseOperatorsPass
from mpkir.passes.raise_operators import RaiseOperatorsPass
from mpkir.pipeline import context
from mpkir.variant import Variant

ROWS = Variant(machine=(("tiles.max_rows", 4),))
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MPKIR_CACHE", str(tmp_path))
    return tmp_path


def step(capacity: int = 32, batch: int = 1, hidden: int = 32) -> ModuleOp:
    config = transformers.LlamaConfig(
        hidden_size=hidden,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
    )
    return decode_step(model_from_config(config), capacity, batch=batch)


def keep(machine: str, entries: dict[str, tuned.Choice]) -> None:
    tuned.own_file(machine).parent.mkdir(exist_ok=True)
    tuned.own_file(machine).write_text(tuned.text_of(entries))


def test_shapes_do_not_depend_on_level_or_capacity_but_on_batch_and_sizes():
    module = step()
    shapes = step_shapes(module)
    assert "2 states bf16[1, 2, capacity, 8]" in shapes
    assert "1 states i64[capacity]" in shapes
    for stage in (RaiseOperatorsPass(), FuseOperatorsPass()):
        stage.apply(context(), module)
        assert step_shapes(module) == shapes
    assert step_shapes(step(capacity=48)) == shapes
    assert step_shapes(step(batch=2)) != shapes
    assert step_shapes(step(hidden=64)) != shapes


def test_choices_are_read_as_written():
    entry = tuned.Choice(
        ("1 weights f32[4]",),
        Variant(machine=(("ring.slots", 8), ("handoffs", ("counter", "flag")))),
        {"by": "measurement", "ms": 1.0},
    )
    keep("cpu", {"abc": entry})
    assert tuned.choices("cpu")["abc"] == entry


def test_a_choice_counts_for_its_shapes_and_workers_only_and_yields_to_a_variant():
    machine = machine_named("cpu", workers=2)
    keep("cpu", {tuned.digest_of(("a",), 2): tuned.Choice(("a",), ROWS)})
    assert tuned.with_tuned(Variant(), machine, ("a",)).machine == ROWS.machine
    assert tuned.with_tuned(Variant(), machine, ("b",)) == Variant()
    assert tuned.with_tuned(Variant(), machine_named("cpu", workers=3), ("a",)) == Variant()
    assert not tuned.with_tuned(Variant(tuned=False), machine, ("a",))
    graph = Variant(machine=(("launch", "per-operator"),))
    keep("h100", {tuned.digest_of(("a",), 132): tuned.Choice(("a",), ROWS)})
    assert tuned.with_tuned(graph, machine_named("h100"), ("a",)) == graph
    own = Variant("mine", (("tiles.max_rows", 16),))
    assert tuned.with_tuned(own, machine, ("a",)).machine == own.machine


def test_a_compilation_of_the_same_shapes_takes_the_choice():
    torch.manual_seed(0)
    module, x = nn.Linear(16, 24), torch.randn(1, 16)
    before = mpkir.compile(module, (x,), workers=2)
    exported = torch.export.export(module, (x,))
    shapes = ("1 inputs f32[1, 16]", "1 weights f32[24, 16]", "1 weights f32[24]")
    keep("cpu", {tuned.digest_of(shapes, 2): tuned.Choice(shapes, ROWS)})
    after = mpkir.compile(exported, workers=2)
    assert (len(before.table.tasks), len(after.table.tasks)) == (2, 6)
    torch.testing.assert_close(after(x), before(x))


@pytest.mark.parametrize("text", ["{", "[]", '{"abc": {}}', '{"abc": {"machine": []}}'])
def test_a_damaged_file_is_told(text: str):
    keep("cpu", {})
    tuned.own_file("cpu").write_text(text)
    with pytest.raises(MpkirError, match="tune again"):
        tuned.choices("cpu")


def test_what_is_shipped_can_be_read():
    for path in sorted(tuned.shipped_file("any").parent.glob("*.json")):
        entries = tuned.read_choices(path)
        assert path.read_text() == tuned.text_of(entries)
        machine = machine_named(path.stem)
        for digest, choice in entries.items():
            assert digest == tuned.digest_of(choice.shapes, machine.workers)
            assert choice.variant.machine_of(machine) != machine
            assert json.dumps(choice.found)


MEASURED = sorted([*RESULTS.glob("tune-*.json"), *RESULTS.glob("decode-h?00.json")])
"""What `mpk tune` measured, and `mpk bench` beside the default: each checked against fp32."""


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_untuned_steps_take_at_most_5_percent_longer_than_the_best_that_was_measured(path: Path):
    turns: dict[tuple[str, ...], dict[str, float]] = {}
    for record in json.loads(path.read_text("utf-8")):
        turn = ("system", "model", "commit", "command", "batch", "positions")
        if record["system"].startswith("mpkir-"):
            key = tuple(str(record.get(name)) for name in turn)
            turns.setdefault(key, {})[record.get("variant") or ""] = record["ms"]
    several = {turn: times for turn, times in turns.items() if len(times) > 1}
    assert several
    if path.stem.startswith("tune-"):  # nobody tunes to measure one
        assert several == turns
    for turn, times in several.items():
        assert times[""] <= 1.05 * min(times.values()), turn


def test_what_is_shipped_was_measured_and_gains_at_most_5_percent():
    for path in sorted(tuned.shipped_file("any").parent.glob("*.json")):
        for choice in tuned.read_choices(path).values():
            assert choice.found["by"] == "measurement"
            assert choice.found["ms"] < choice.found["default_ms"] <= 1.05 * choice.found["ms"]
