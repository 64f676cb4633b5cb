"""`mpk tune`: proposals of the simulator, decisions by measurement, choices found again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from xdsl.dialects.builtin import ModuleOp

from mpkir import tuned
from mpkir.errors import MpkirError
from mpkir.frontend import decode_step, model_from_config
from mpkir.machine import machine_named
from mpkir.tools import mpk
from mpkir.tools.tune.candidates import Candidate, Tuning, read_tuning
from mpkir.tools.tune.command import keep
from mpkir.tools.tune.search import Search, proposals
from mpkir.tools.tune.space import DIMENSIONS, changes_of, space, value_of, variant_of
from mpkir.variant import Variant

CONFIG = transformers.LlamaConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=64,
)
FASTER = Variant("max_rows=4", (("tiles.max_rows", 4),), tuned=False)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPKIR_CACHE", str(tmp_path / "cache"))
    CONFIG.save_pretrained(tmp_path / "tiny")
    return tmp_path


@pytest.fixture(scope="module")
def module() -> ModuleOp:
    return decode_step(model_from_config(CONFIG), 32)


def tune(*arguments: str) -> Any:
    """What `mpk tune` ends with."""
    with pytest.raises(SystemExit) as stopped:
        mpk.main(["tune", *arguments])
    return stopped.value.code or None


def tuning(default: Any = None, faster: Any = None) -> Tuning:
    candidates = (
        Candidate(Variant(tuned=False), 10.0, default or {}),
        Candidate(FASTER, 9.0, faster or {}),
    )
    return Tuning("m", "cpu", 2, 1, ("1 weights f32[4]",), candidates)


def times(ms: float, spread: float = 0.0) -> dict[str, float]:
    return {"ms": ms, "ms_min": ms - spread, "ms_max": ms + spread}


def test_a_search_is_the_same_each_time_and_keeps_to_its_budget(module: ModuleOp):
    machine = machine_named("h100", workers=4)
    counts: list[int] = []

    def search() -> tuple[Candidate, ...]:
        return Search(module, machine, 8, 12, lambda each, count: counts.append(count)).run()

    first = search()
    assert first == search()
    half = len(counts) // 2
    assert counts[:half] == counts[half:]
    assert len(first) <= half <= 12
    assert first[0].name == ""
    assert [c.simulated_us for c in first[1:]] == sorted(c.simulated_us for c in first[1:])
    assert all(not each.variant.tuned for each in first)


def test_proposals_are_the_fastest_of_each_kind():
    more = Variant("a=1,b=2", (("tiles.max_rows", 4), ("ring.slots", 8)), tuned=False)
    less = Variant("max_rows=8", (("tiles.max_rows", 8),), tuned=False)
    slow = Variant("slots=4", (("ring.slots", 4),), tuned=False)
    default = Candidate(Variant(tuned=False), 10.0)
    found = (
        default,
        Candidate(more, 9.0),
        Candidate(FASTER, 9.0),
        Candidate(less, 9.5),
        Candidate(slow, 12.0),
    )
    assert [each.name for each in proposals(found, 1)] == ["", "max_rows=4"]
    assert [each.name for each in proposals(found, 9)] == ["", "max_rows=4", "a=1,b=2"]


def test_variants_that_lead_to_one_program_are_one_candidate(module: ModuleOp):
    search = Search(module, machine_named("h100", workers=4), 8, 4)
    enough = [Variant(f"max_rows={n}", (("tiles.max_rows", n),), tuned=False) for n in (512, 1024)]
    assert search.candidate(enough[0]) is search.candidate(enough[1])


def test_what_cannot_be_compiled_is_no_candidate(module: ModuleOp):
    search = Search(module, machine_named("h100", workers=4), 8, 4)
    impossible = Variant("slot_bytes=1", (("ring.slot_bytes", 1),))
    with pytest.raises(MpkirError, match="slot_bytes=1 cannot be compiled"):
        search.candidate(impossible)


def test_dimensions_are_fields_of_the_machine_and_candidates_are_called_by_them():
    machine = machine_named("h100")
    assert len({each.name for each in DIMENSIONS}) == len(DIMENSIONS)
    for each in space(machine):
        assert variant_of(machine, {each.field: value_of(machine, each.field)}).name == ""
    wanted = changes_of(machine, "in_flight=7, handoffs=counter-flag")
    assert wanted == {"ring.in_flight": 7, "handoffs": ("counter", "flag")}
    assert changes_of(machine, variant_of(machine, wanted).name)["ring.in_flight"] == 7
    assert not {"slots", "in_flight"} & {each.name for each in space(machine_named("cpu"))}
    for wrong in ("speed=11", "in_flight", "handoffs=pigeon"):
        with pytest.raises(MpkirError):
            changes_of(machine, wrong)


def test_candidates_travel_by_file(here: Path):
    found = tuning(times(2.0), times(1.5))
    found.write(here / "m.tune.json")
    assert read_tuning(here / "m.tune.json") == found
    Path("wrong.tune.json").write_text('{"model": "m"}')
    with pytest.raises(MpkirError, match="holds no candidates"):
        read_tuning(here / "wrong.tune.json")


@pytest.mark.parametrize(
    ("default", "faster", "by"),
    [
        ({}, {}, "simulation"),
        (times(2.0, 0.1), times(1.5), "measurement"),
        (times(2.0, 0.1), times(1.95), None),  # within the default's own spread
        (times(2.0), times(1.99), None),  # by less than counts
        (times(2.0), {}, None),  # wrong, or it failed
    ],
)
def test_a_candidate_has_to_beat_the_default_clearly(default: Any, faster: Any, by: str | None):
    choice = tuning(default, faster).choice()
    assert (None if choice is None else choice.found["by"]) == by


def test_a_choice_is_kept_beside_others_and_goes_when_the_default_is_better(here: Path):
    file = here / "kept" / "cpu.json"
    other = tuned.Choice(("2 weights f32[4]",), FASTER, {"by": "hand"})
    file.parent.mkdir()
    file.write_text(tuned.text_of({"other": other}))
    assert "max_rows=4 by measurement" in keep(tuning(times(2.0), times(1.0)), file)
    assert len(tuned.read_choices(file)) == 2
    assert "nothing beats the default" in keep(tuning(times(2.0), times(3.0)), file)
    assert list(tuned.read_choices(file)) == ["other"]
    file.write_text("damaged")
    with pytest.raises(MpkirError, match="tune again"):
        keep(tuning(times(2.0), times(1.0)), file)
    assert file.read_text() == "damaged"


def test_compiled_here_measured_there_adopted_here(here: Path, capsys: pytest.CaptureFixture[str]):
    steps = ("--steps", "4", "--runs", "2")
    searched = ("--budget", "3", "--proposals", "0", "--also", "max_rows=8", "--workers", "2")
    model = ("tiny/config.json", "-t", "cpu", "--capacity", "48")
    assert tune(*model, *searched, *steps, "--compile-to", "candidates") is None
    assert not tuned.own_file("cpu").exists()
    assert tune("candidates/tiny.tune.json", *steps, "--measured", "m.tune.json") is None
    assert not tuned.own_file("cpu").exists()
    measured = json.loads(Path("m.tune.json").read_text())
    assert [each["name"] for each in measured["candidates"]] == ["", "max_rows=8"]
    default, other = (each["measured"] for each in measured["candidates"])
    assert default["ms"] > 0
    assert other["variant"] == "max_rows=8"
    # Which one is faster is this machine's affair.
    default["ms"] = default["ms_min"] = 100.0
    Path("m.tune.json").write_text(json.dumps(measured))
    capsys.readouterr()
    # Measurements and candidates of before are not written over.
    assert "are there already" in tune(
        "candidates/tiny.tune.json", *steps, "--measured", "m.tune.json"
    )
    assert "are there already" in tune(*model, *searched, *steps, "--compile-to", "candidates")
    assert json.loads(Path("m.tune.json").read_text()) == measured
    assert "nothing was measured" in tune(
        "--adopt", "candidates/tiny.tune.json", "--json", "r.json"
    )
    assert not Path("r.json").exists()
    capsys.readouterr()
    adopted = ("--adopt", "m.tune.json", "--json", "r.json", "--show", "-t", "cpu")
    assert tune(*adopted) is None
    assert "max_rows=8" in capsys.readouterr().out
    records = json.loads(Path("r.json").read_text())
    assert [each.get("variant", "") for each in records] == ["", "max_rows=8"]
    (choice,) = tuned.choices("cpu").values()
    assert choice.variant.machine == (("tiles.max_rows", 8),)
    assert choice.found["default_ms"] == 100.0
    with pytest.raises(SystemExit):
        mpk.main(["compile", "tiny/config.json", "--workers", "2", "-o", "tuned"])
    with pytest.raises(SystemExit):
        mpk.main(["compile", "tiny/config.json", "--workers", "2", "-o", "plain", "--no-tuned"])
    tasks = [len((here / name / "table.mpkt").read_text()) for name in ("tuned", "plain")]
    assert tasks[0] > tasks[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to tune"),
        (("small", "--also", "speed=11"), "is no choice for h100"),
        (("none.tune.json",), "cannot be read"),
    ],
)
def test_bad_arguments_are_told(here: Path, arguments: Any, message: str):
    extra = ("--simulate-only",) if "small" in arguments else ()
    assert message in tune(*arguments, *extra)
