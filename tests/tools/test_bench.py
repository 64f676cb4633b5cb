"""`mpk bench`: what it measures, that it checks before, and what it says of variants."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mpkir.errors import MpkirError
from mpkir.machine import machine_named
from mpkir.pipeline import stages
from mpkir.progress import SILENT
from mpkir.tools import mpk
from mpkir.tools.ablations import DEFAULT, TABLE, ablation_named, ablations_named
from mpkir.tools.bench.command import numbers
from mpkir.tools.bench.models import ModelSource
from mpkir.tools.bench.plot import plot
from mpkir.tools.bench.programs import artifact_name, find_artifact
from mpkir.tools.bench.records import append_records
from mpkir.tools.bench.systems import Compiled, Torch
from mpkir.tools.bench.timing import WARM, Times, time_in_turns
from mpkir.tools.variants import compile_variant

CHUNKS = ablation_named("attention-chunk=16")
WITHOUT_COMPILER = """
import sys
from importlib.abc import MetaPathFinder
class NoCompiler(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "xdsl":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoCompiler())
from mpkir.tools import mpk
mpk.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small model, a variant of it, and a batch of two."""
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
    )
    source = ModelSource("tiny", config)
    folder = tmp_path_factory.mktemp("artifacts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPKIR_CACHE", str(folder / "cache"))
        for ablation, batch in ((DEFAULT, 1), (CHUNKS, 1), (DEFAULT, 2)):
            compile_variant(
                source,
                ablation,
                target="cpu",
                batch=batch,
                capacity=48,
                workers=2,
                progress=SILENT,
                output=folder / artifact_name("tiny", ablation, batch),
            )
        yield folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bench(*arguments: str) -> Any:
    """What `mpk bench` ends with."""
    with pytest.raises(SystemExit) as stopped:
        mpk.main(["bench", *arguments])
    return stopped.value.code or None


def record(system: str, ms: float, **more: Any) -> dict[str, Any]:
    return {
        "system": system,
        "model": "m",
        "batch": 1,
        "positions": [32, 158],
        "ms": ms,
        "ms_min": ms - 0.1,
        "ms_max": ms + 0.1,
        "floor_ms": 0.5,
        "share_of_floor": 0.5 / ms,
        **more,
    }


def test_variants_positions_and_peers_are_measured_in_one_run(here: Path, artifacts: Path):
    short = ("--steps", "4", "--runs", "2", "--json", "r.json", "--plot", "r.svg")
    place = ("--artifacts", str(artifacts / "tiny"))
    assert bench(*place, "--ablate", CHUNKS.name, "--position", "3,40", *short) is None
    records = json.loads(Path("r.json").read_text())
    found = [(r["positions"], r["system"], r.get("variant")) for r in records]
    assert found == [
        (positions, *system)
        for positions in ([3, 6], [40, 43])
        for system in (("mpkir-cpu", None), ("mpkir-cpu", CHUNKS.name), ("torch.eager", None))
    ]
    for each in records:
        assert each["ms_min"] <= each["ms"] <= each["ms_max"]
        assert each["gb_s"] == pytest.approx(each["bytes"] / each["ms"] / 1e6, abs=0.06)
    checked = [each for each in records if each["system"] == "mpkir-cpu"]
    assert all(each["logit_positions"] == [0, 1, 3, 40] for each in checked)
    assert all(0 < e["logit_error"] <= 1.5 * e["logit_error_torch_bf16"] for e in checked)
    assert all(each["greedy_same_as_fp32"] > 0 for each in checked)
    assert Path("r.svg").read_text().count("<rect") == len(records)


def test_a_batch_is_checked_and_measured(here: Path, artifacts: Path):
    options = ("--batch", "2", "--steps", "4", "--runs", "1", "--no-peers", "--json", "r.json")
    assert bench("--artifacts", str(artifacts / "tiny"), *options) is None
    (only,) = json.loads(Path("r.json").read_text())
    assert only["batch"] == 2
    assert only["greedy_tokens"] == 2 * 32


def test_a_wrong_result_is_an_error_and_no_number(
    here: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
):
    right = Compiled.logits

    def wrong(self: Compiled) -> torch.Tensor:
        return right(self) + 0.5 * (self.variant == CHUNKS.name)

    monkeypatch.setattr(Compiled, "logits", wrong)
    options = ("--ablate", CHUNKS.name, "--steps", "2", "--runs", "1", "--json", "r.json")
    message = bench("--artifacts", str(artifacts / "tiny"), "--no-peers", *options)
    assert "wrong logits at position 0" in message
    assert CHUNKS.name in message
    (only,) = json.loads(Path("r.json").read_text())
    assert "variant" not in only


def test_it_runs_where_there_is_no_compiler(here: Path, artifacts: Path):
    options = ("--steps", "2", "--runs", "1", "--no-peers", "--repeats", "1", "--json", "r.json")
    command = [sys.executable, "-c", WITHOUT_COMPILER, "bench", str(artifacts / "tiny"), *options]
    subprocess.run(command, check=True, capture_output=True)
    assert len(json.loads(Path("r.json").read_text())) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to measure; name a model"),
        (("no-such-model",), "no model is called 'no-such-model'"),
        (("--ablate", "faster", "small"), "no ablation is called 'faster'"),
        (("--batch", "one", "small"), "'one' is no list of batch sizes"),
        (("--plot", "x.png", "small"), "plots are SVG"),
        (("--peer", "tensorflow", "small"), "no peer is called 'tensorflow'"),
        (("--artifacts", ".", "small"), "there is no artifact small"),
        (("--per-operator", "-t", "cpu", "small"), "cpu has no launch 'per-operator'"),
    ],
)
def test_bad_arguments_are_told_in_one_line(here: Path, arguments: Any, message: str):
    assert message in bench(*arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(here: Path):
    assert "h100 is a GPU, and torch sees none here" in bench("small", "-t", "h100")


def test_a_run_must_fit_the_capacity(here: Path, artifacts: Path):
    message = bench(str(artifacts / "tiny"), "--position", "40")
    assert "end at 167, the program was compiled for 48 positions" in message


def test_artifacts_are_found_by_their_tags(artifacts: Path):
    found = find_artifact(artifacts, "tiny", CHUNKS, 1)
    assert found.manifest.info["variant"] == CHUNKS.name
    assert find_artifact(artifacts / "tiny", "", DEFAULT, 2).path.name == "tiny+batch=2"
    with pytest.raises(MpkirError, match="no artifact tiny"):
        find_artifact(artifacts, "tiny", CHUNKS, 2)


class Fake:
    """A system that notes its turns and may fail in one."""

    facts: dict[str, Any]

    def __init__(self, label: str, log: list[str], fails_at: int = -1) -> None:
        self.name = self.label = label
        self.log, self.fails_at, self.turn = log, fails_at, 0
        self.facts = {}

    def prepare(self, position: int) -> None:
        self.log.append(f"{self.label} at {position}")

    def run(self, position: int, steps: int) -> float:
        self.turn += 1
        if self.turn == self.fails_at:
            raise MpkirError("it broke", where=self.label)
        self.log.append(self.label)
        return float(self.turn)


def test_systems_take_turns_and_one_that_fails_takes_no_more():
    log: list[str] = []
    systems = [Fake("a", log), Fake("b", log, fails_at=4), Fake("c", log)]
    found = time_in_turns(systems, 5, 2, runs=3)
    assert log == ["a at 5", "b at 5", "c at 5", *"abcabcabc", *"acac"]
    assert isinstance(found["b"], MpkirError)
    assert found["a"] == Times((WARM + 1.0, WARM + 2.0, WARM + 3.0))


def test_every_ablation_changes_the_compilation_for_a_gpu():
    machine = machine_named("h100")
    for switch in TABLE:
        variant = switch.ablation(switch.name, 5).variant  # of which none is the default
        changed = variant.machine_of(machine)
        passes = stages(changed, variant=variant, tp=2) != stages(machine, tp=2)
        # Some goes into the kernel alone.
        ahead = ("ahead", "ahead_rows", "ahead_below", "long_from")
        fields = ("ease", "pace", "caches", "registers_from", *ahead)
        kernel = any(getattr(changed.ring, f) != getattr(machine.ring, f) for f in fields)
        assert passes or kernel or variant.macros, switch.name


def test_ablations_are_named_once_each():
    assert [a.name for a in ablations_named(["in-flight=4, unpacked", "in-flight=4"])] == [
        "in-flight=4",
        "unpacked",
    ]
    for wrong in ("in-flight", "in-flight=x", "unpacked=2"):
        with pytest.raises(MpkirError, match="is no ablation; write"):
            ablation_named(wrong)


def test_several_ablations_at_once():
    both = ablation_named("in-flight=4+no-panels+slots=9+in-flight=5")
    assert both.name == both.variant.name == "in-flight=4+no-panels+slots=9+in-flight=5"
    assert dict(both.variant.machine) == {"ring.in_flight": 5, "ring.slots": 9}
    assert both.variant.options == (("mpk-lay-out-flags", "panels", False),)
    with pytest.raises(MpkirError, match="'slots' is no ablation; write slots=N"):
        ablation_named("no-panels+slots")


def test_lists_of_numbers():
    assert numbers("1, 2,2,4", "batch sizes") == (1, 2, 4)


def test_a_plot_has_a_bar_for_each_record_on_a_scale_of_its_group():
    text = plot([record("mpkir-megakernel", 1.0), record("torch.compile", 1.9, mode="max<")])
    assert text.count("<rect") == 2
    assert "torch.compile, max&lt;" in text
    assert "floor 0.500 ms" in text
    assert 'width="260.0"' in text  # 1.0 of 2.0 ms, the longest bar's end, in 520 pixels


def test_records_are_appended_and_nothing_else_is_overwritten(here: Path):
    append_records(Path("new/r.json"), [{"a": 1}])
    append_records(Path("new/r.json"), [{"a": 2}])
    assert json.loads(Path("new/r.json").read_text()) == [{"a": 1}, {"a": 2}]
    for text in ("{}", "no json"):
        Path("other").write_text(text)
        with pytest.raises(MpkirError, match="no results file"):
            append_records(Path("other"), [{"a": 3}])
        assert Path("other").read_text() == text


def test_a_peer_that_fails_is_told_and_the_others_have_their_times(
    here: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(self: Torch, token: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such operator\nand a long trace")

    monkeypatch.setattr(Torch, "_plain_step", broken)
    options = ("--steps", "2", "--runs", "1", "--repeats", "1", "--json", "r.json")
    message = bench("--artifacts", str(artifacts / "tiny"), *options)
    assert message == "mpk: error: torch.eager: PyTorch failed: no such operator"
    assert [r["system"] for r in json.loads(Path("r.json").read_text())] == ["mpkir-cpu"]


def test_artifacts_beside_each_other(artifacts: Path, here: Path) -> None:
    """`benchmarks/compare_artifacts.py`, on what a CPU can run."""
    script = Path(__file__).parents[2] / "benchmarks" / "compare_artifacts.py"
    other = artifacts / artifact_name("tiny", CHUNKS, 1)
    command = [sys.executable, str(script), str(artifacts / "tiny"), str(other)]
    command += ["--positions", "8", "--steps", "8", "--repeats", "3", "--json", "records.json"]
    subprocess.run(command, check=True, timeout=120)
    first, second = json.loads(Path("records.json").read_text())
    assert (first["model"], first["variant"]) == ("tiny", "")
    assert second["variant"] == "attention-chunk=16"
    assert first["same_tokens"] == second["same_tokens"] == 8
    assert first["logits_apart"] == 0.0
    assert second["logits_apart"] < 1e-3
    assert first["ms"] > 0.0
    assert "launch_us" in first
