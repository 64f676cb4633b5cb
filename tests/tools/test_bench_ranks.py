"""`mpk bench --tp`: what it compares, what it says of it, and that it ends when a rank does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import torch
import transformers
from rich.console import Console

from mpkir.errors import MpkirError
from mpkir.runtime.artifact import load_artifact
from mpkir.runtime.manifest import MANIFEST
from mpkir.tools import mpk
from mpkir.tools.bench.plot import plot
from mpkir.tools.bench.ranks.programs import find_programs
from mpkir.tools.bench.ranks.records import compare
from mpkir.tools.bench.ranks.report import table_of

MPK = [sys.executable, "-m", "mpkir.tools.mpk", "bench"]
SHORT = ("--steps", "4", "--runs", "1", "--repeats", "2", "--workers", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small model's configuration, and a cache."""
    folder = tmp_path_factory.mktemp("tp")
    config: Any = transformers.LlamaConfig(
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=256,
    )
    config.save_pretrained(folder / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPKIR_CACHE", str(folder / "cache"))
        patch.delenv("RANK", raising=False)
        yield folder


@pytest.fixture(scope="module")
def measured(folder: Path) -> list[dict[str, Any]]:
    """The records of one and two ranks and of a variant, compiled here, with PyTorch."""
    asked = ("--tp", "1,2", "--ablate", "shots=2")
    more = (*asked, "--json", "r.json", "--plot", "r.svg", "tiny/config.json")
    done = subprocess.run(
        [*MPK, *SHORT, *more], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    for stage in ("check tp=2 ", "check tp=2, shots=2 "):
        assert done.stderr.count(stage) == 1  # rank 0's
    assert done.stdout.count("a decode step on several ranks") == 1
    return json.loads((folder / "r.json").read_text())


@pytest.fixture(scope="module")
def artifacts(folder: Path, measured: Any) -> Path:
    """What was compiled, under the names by which it is found."""
    place = folder / "artifacts"
    for manifest in (folder / "cache").rglob(MANIFEST):
        found = load_artifact(manifest.parent).manifest
        tags = f"+tp={found.ranks}" if found.ranks > 1 else ""
        tags += f"+{found.info['variant']}" if "variant" in found.info else ""
        shutil.copytree(manifest.parent, place / f"tiny{tags}")
    assert len(list(place.iterdir())) == 4
    return place


def bench(*arguments: str) -> Any:
    """What `mpk bench` ends with."""
    with pytest.raises(SystemExit) as stopped:
        mpk.main(["bench", *arguments])
    return stopped.value.code or None


def test_one_rank_two_and_pytorch_are_measured_in_one_run(folder: Path, measured: Any):
    found = [(r["system"], r.get("variant"), r["tp"]) for r in measured]
    assert found == [
        ("mpkir-cpu", None, 1),
        ("mpkir-cpu", None, 2),
        ("mpkir-cpu", "alone", 2),
        ("mpkir-cpu", "shots=2", 2),
        ("torch.eager, tensor parallel", None, 2),
    ]
    one, many, alone, in_two_shots, peer = measured
    for each in measured:
        assert each["benchmark"] == "decode-tp"
        assert each["ms_min"] <= each["ms"] <= each["ms_max"]
        assert "--tp 1,2" in each["command"]
    assert many["bytes"] < one["bytes"]  # of a rank
    for each in (one, many, in_two_shots):
        assert each["logit_positions"] == [0, 1, 32]
        assert 0 < each["logit_error"] <= 1.5 * each["logit_error_torch_bf16"]
        assert each["greedy_same_as_fp32"] > 0
        assert each["repeated_launches"] == 2
    assert "logit_error" not in alone
    assert many["of_one_rank"] == pytest.approx(many["ms"] / one["ms"], abs=1e-3)
    assert many["exposed_ms"] == pytest.approx(many["ms"] - alone["ms"], abs=1e-4)
    assert many["times_faster"] == pytest.approx(peer["ms"] / many["ms"], abs=1e-2)
    assert (folder / "r.svg").read_text().count("<rect") == len(measured)


def test_a_rank_that_dies_ends_it_and_is_named(folder: Path, artifacts: Path):
    options = ("--tp", "2", "--no-peers", "--runs", "1000000", "--steps", "4")
    command = [*MPK, "--artifacts", str(artifacts), *options, "tiny/config.json"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder) as parent:
        assert parent.stderr is not None
        said = ""
        while "load tp=2, alone" not in said:
            line = parent.stderr.readline()
            assert line, said
            said += line
        pid = _rank_of(parent.pid, 1)
        os.kill(pid, signal.SIGKILL)
        begun = monotonic()
        said += parent.stderr.read()
        code = parent.wait()
    assert monotonic() - begun < 10
    assert code == 128 + signal.SIGKILL
    assert f"rank 1 (process {pid} on" in said
    assert "has died" in said
    assert "Traceback" not in said


def _rank_of(parent: int, rank: int) -> int:
    """The process that a parent has started as a rank."""
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"RANK={rank}".encode() in Path("/proc", pid, "environ").read_bytes().split(b"\0"):
            return int(pid)
    raise AssertionError(f"no rank {rank}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tp", "2"), "nothing to measure; name a model"),
        (("--tp", "two", "small"), "'two' is no list of ranks"),
        (("--tp", "0,2", "small"), "a program has one rank or more"),
        (("--tp", "2", "--plot", "x.png", "small"), "plots are SVG"),
        (("--tp", "2", "--peer", "tensorflow", "small"), "no peer is called 'tensorflow'"),
        (("--tp", "2", "--per-operator", "small"), "a kernel for each operator is for one rank"),
        (("--tp", "2", "no-such-model"), "no model is called 'no-such-model'"),
    ],
)
def test_bad_arguments_are_told_before_anything_starts(arguments: Any, message: str):
    assert message in bench(*arguments)


def test_a_missing_program_is_told(artifacts: Path):
    model = str(artifacts.parent / "tiny" / "config.json")
    message = bench("--artifacts", str(artifacts), "--tp", "1,2,4", model)
    assert "there is no artifact tiny+tp=4" in message
    assert "with --tp 4" in message


def test_a_program_of_several_ranks_is_not_measured_on_one(artifacts: Path, tmp_path: Path):
    mine = shutil.copytree(artifacts / "tiny+tp=2", tmp_path / "mine")
    with pytest.raises(SystemExit, match="is for 2 ranks; measure it with --tp 2"):
        mpk.main(["bench", str(mine), "--no-peers"])


def test_an_artifact_of_several_ranks_may_have_any_name(artifacts: Path, tmp_path: Path):
    mine = shutil.copytree(artifacts / "tiny+tp=2", tmp_path / "mine")
    assert find_programs(mine, "mine", 1, 2, False).many.path == mine
    with pytest.raises(MpkirError, match="compiled for 2 ranks, not 1"):
        find_programs(mine, "mine", 1, 2, True)


def test_gpus_that_are_not_there_are_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "h200 is a GPU, and torch sees none here" in bench("small", "-t", "h200", "--tp", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    message = bench("small", "-t", "h200", "--tp", "1,2,4")
    assert "4 ranks need a GPU each, and torch sees 2 here" in message


def test_torchrun_with_other_processes_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    message = bench("small", "--tp", "1,2")
    assert "--tp 1,2 in one of 3 processes; give --tp 3 or --tp 1,3 here" in message


def _record(system: str, tp: int, ms: float, **more: Any) -> dict[str, Any]:
    own = {"system": system, "tp": tp, "model": "m", "batch": 1, "positions": [32, 158], "ms": ms}
    times = {"ms_min": ms, "ms_max": ms, "floor_ms": 1.0 / tp, "share_of_floor": 1.0 / tp / ms}
    return own | times | {"gb_s": 100.0} | more


def test_what_times_mean_for_each_other_is_said():
    ours = "mpkir-megakernel"
    records = [
        _record(ours, 1, 2.0),
        _record(ours, 4, 0.8),
        _record(ours, 4, 0.72, variant="alone"),
        _record("torch.compile, tensor parallel", 4, 2.4, mode="reduce-overhead"),
    ]
    compare(records)
    derived = ("of_one_rank", "exposed_ms", "exposed_share", "times_faster")
    assert [records[1][key] for key in derived] == [0.4, 0.08, 0.1, 3.0]
    assert all(key not in each for each in records if each is not records[1] for key in derived)
    shown = StringIO()
    Console(file=shown, width=200).print(table_of(records))
    (line,) = (each for each in shown.getvalue().splitlines() if "0.080 ms" in each)
    assert [part in line for part in ("0.400x", "10.0%", "3.00x", "tp=4")] == [True] * 4
    # One line for the floor of one rank, one for that of four.
    assert plot(records).count("stroke-dasharray") == 2
