"""`mpk simulate`: sources, machines, ranks, and a trace beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from mpkir.analysis.exchange_times import kept_home, sending_time
from mpkir.analysis.plan import plan_of
from mpkir.analysis.simulator import simulate
from mpkir.analysis.task_times import times_of
from mpkir.errors import MpkirError
from mpkir.machine import machine_named
from mpkir.pipeline import lower
from mpkir.progress import SILENT
from mpkir.runtime.artifact import load_artifact
from mpkir.runtime.recording import Recording
from mpkir.tools import mpk, simulation
from mpkir.tools.sources import compile_source, module_of

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.fixture(scope="module")
def step(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's step as IR, so that it is exported once."""
    path = tmp_path_factory.mktemp("ir") / "step.mlir"
    with pytest.raises(SystemExit):
        mpk.main(["export", str(config), "-o", str(path)])
    return path


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    with pytest.raises(SystemExit) as stopped:
        mpk.main(["simulate", *arguments, "--json", "-"])
    assert stopped.value.code in (0, None), stopped.value.code
    return json.loads(capsys.readouterr().out)


def test_a_source_and_policies(step: Path, capsys: pytest.CaptureFixture[str]):
    found = run(str(step), capsys=capsys)
    assert found["step_us"] > found["floor_us"] > 0
    assert found["machine"] == "h100"
    assert sum(each["added_us"] for each in found["operators"].values()) == pytest.approx(
        found["step_us"], rel=1e-2
    )
    assert sum(each["us"] for each in found["critical_path"].values()) == pytest.approx(
        found["step_us"], rel=1e-2
    )
    assert len(found["idle_by_worker"]) == 132
    again = run(str(step), capsys=capsys)
    assert again == found
    for policy in ("list", "hybrid", "dynamic"):
        assert run(str(step), "--policy", policy, capsys=capsys)["step_us"] > found["floor_us"]


def test_a_machine_in_a_file(step: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = json.loads(files("mpkir.machines").joinpath("h100.json").read_text())
    data["hop_us"]["counter"] *= 10
    data["handoffs"] = ["counter"]
    data["timing"] = data.get("timing", {}) | {"release": 5.0}
    path = tmp_path / "slow.json"
    path.write_text(json.dumps(data))
    slow = run(str(step), "--machine", str(path), capsys=capsys)
    assert slow["step_us"] > 2 * run(str(step), capsys=capsys)["step_us"]
    none = tmp_path / "none.json"
    none.write_text("{}")
    with pytest.raises(MpkirError, match="lacks"):
        machine_named(str(none))
    data["timing"] = {"releases": 5.0}
    other = tmp_path / "wrong.json"
    other.write_text(json.dumps(data))
    with pytest.raises(MpkirError, match="releases"):
        machine_named(str(other))


def test_a_table_and_a_trace(step: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The artifact's table says the same as the module; a trace of the simulation has no error."""
    compile_source(
        str(step),
        "cpu",
        workers=3,
        capacity=None,
        output=tmp_path / "artifact",
        dump=None,
        progress=SILENT,
    )
    machine = machine_named("cpu", workers=3)
    module = simulation.scheduled_module(str(step), machine, None, None, 1, SILENT)
    played = simulate(module, machine, position=95)
    table = load_artifact(tmp_path / "artifact").table
    _, rows = simulation.plan_of_table(played.plan, table)
    begin = played.ready.min()
    times = np.stack([played.ready] * 4 + [played.end], axis=1)[rows] - begin
    marks = (times * 1000).astype(np.int64)[None]
    recording = Recording(marks, np.zeros((0, 8), np.int64), 95, 1.0, "CPU")
    recording.save(tmp_path / "trace.npz")
    found, _ = simulation.run(
        str(step),
        "cpu",
        workers=3,
        position=95,
        artifact=tmp_path / "artifact",
        trace=tmp_path / "trace.npz",
    )
    assert found["trace"]["error"] == pytest.approx(0, abs=1e-2)
    replace(recording, marks=marks[:, :5]).save(tmp_path / "short.npz")
    with pytest.raises(MpkirError, match="a trace of 5 tasks"):
        simulation.run(
            str(step),
            "cpu",
            workers=3,
            artifact=tmp_path / "artifact",
            trace=tmp_path / "short.npz",
        )
    with pytest.raises(MpkirError, match="not the module's"):
        simulation.run(
            str(step), "cpu", workers=2, policy="dynamic", artifact=tmp_path / "artifact"
        )


def test_ranks(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """What is played is what the compiler divides, with all that ranks exchange."""
    one = run(str(config), "-t", "h200", capsys=capsys)
    assert (one["ranks"], one["exposed_us"]) == (1, 0)
    data = json.loads(files("mpkir.machines").joinpath("h200.json").read_text())
    data["memory_bandwidth"] /= 1000  # so that even these weights are worth dividing
    path = tmp_path / "slow.json"
    path.write_text(json.dumps(data))
    two = run(str(config), "--machine", str(path), "--tp", "2", capsys=capsys)
    assert two["ranks"] == 2
    assert two["bytes"] < 0.6 * one["bytes"]
    data["hop_us"]["peer"] += 10
    path = tmp_path / "far.json"
    path.write_text(json.dumps(data))
    far = run(str(config), "--machine", str(path), "--tp", "2", capsys=capsys)
    assert far["exposed_us"] > two["exposed_us"] + 10


def test_tasks_are_of_as_many_ranks_as_they_are(capsys: pytest.CaptureFixture[str]):
    source = str(Path(__file__).parents[2] / "benchmarks" / "graphs" / "two-gpu.mlir")
    found = run(source, "-t", "h200", capsys=capsys)
    assert found["ranks"] == 2
    with pytest.raises(MpkirError, match="those of 2 ranks already, and 4 were asked for"):
        simulation.run(source, "h200", ranks=4)


def test_what_is_sent_takes_a_link_and_over_hosts_a_network():
    machine = machine_named("h200")
    timing = machine.timing
    assert sending_time(45_000, 1, machine) == 0
    assert sending_time(45_000, 8, machine) == pytest.approx(0.7 * 450 / timing.link_bandwidth)
    over = sending_time(45_000, 16, machine)
    assert over == pytest.approx(timing.network + 8 * 45 / timing.network_bandwidth)
    assert sending_time(45_000, 16, kept_home(machine)) == 0


def test_attention_costs_its_chunks_with_rows_and_a_merge_every_part(step: Path):
    h100 = machine_named("h100")
    machine = replace(
        h100,
        tiles=replace(h100.tiles, attention_chunk=32, attention_bytes=0, attention_joins=False),
    )
    module = module_of(str(step), None).module
    lower(module, machine)
    costs = plan_of(module, machine, 79).costs
    for cost in (each for each in costs if each.rows.any()):
        # 80 rows of 256, of each of two key heads
        assert cost.rows.reshape(16, 2).T.tolist() == [[16] * 5 + [0] * 11] * 2
        work = times_of(cost, machine).work.reshape(16, 2)
        assert (work[4] > work[5] + machine.timing.chunk).all()
    merges = [each for each in costs if each.joined]
    assert [each.joined for each in merges] == [16, 16]
    slow = replace(machine, timing=replace(machine.timing, join=machine.timing.join + 1))
    for cost in merges:
        assert np.allclose(times_of(cost, slow).work - times_of(cost, machine).work, 16)
