"""`mpk` as a user calls it: from a source to an artifact, to results and measurements."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from mpkir import LanguageModel
from mpkir.tools import mpk, mpk_opt

COMMANDS = ("export", "compile", "run", "generate", "bench", "inspect", "disasm", "asm")


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(40, 72)
        self.second = nn.Linear(72, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(nn.functional.silu(self.first(x)))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPKIR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> None:
    """Run a command that has to succeed."""
    with pytest.raises(SystemExit) as stopped:
        mpk.main([*arguments])
    assert stopped.value.code in (0, None), stopped.value.code


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]):
    run(command, "--help")
    assert f"mpk {command}" in capsys.readouterr().out


def test_an_exported_program_is_compiled_and_run(here: Path, capsys: pytest.CaptureFixture[str]):
    torch.manual_seed(0)
    module, x = Mlp(), torch.randn(4, 40)
    torch.export.save(torch.export.export(module, (x,)), here / "mlp.pt2")
    np.save("x.npy", x.numpy())
    run("compile", "mlp.pt2", "-o", "mlp", "--workers", "2")
    shown = capsys.readouterr()
    assert shown.out == f"{here / 'mlp'}\n"
    assert "verify-schedule" in shown.err
    run("run", "mlp", "-i", "x=x.npy", "-o", "results")
    assert "output0 [4, 24]" in capsys.readouterr().out
    found = np.load("results/output0.npy")
    np.testing.assert_allclose(found, module(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_configuration_compiles_without_weights(here: Path):
    config = transformers.Qwen3Config(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=64,
    )
    config.save_pretrained(here)
    run("compile", "config.json", "--capacity", "32", "-o", "qwen")
    manifest = json.loads((here / "qwen" / "manifest.json").read_text())
    assert manifest["language"]["capacity"] == 32
    assert manifest["weight_files"] == {}
    run("inspect", "qwen")


def test_a_bench_record_has_what_results_files_hold(here: Path):
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
    )
    model = transformers.LlamaForCausalLM(config).bfloat16()
    LanguageModel.from_model(model, capacity=32, output=here / "llama")
    for _ in range(2):
        run(
            *("bench", "llama", "--position", "4", "--steps", "8", "--runs", "2"),
            *("--json", "r.json", "--plot", "r.svg"),
        )
    ours, eager, *again = records = json.loads(Path("r.json").read_text())
    assert (ours["system"], eager["system"], len(again)) == ("mpkir-cpu", "torch.eager", 2)
    assert ours["weights"] == "checkpoint"
    assert 0 < ours["logit_error"] <= 1.5 * ours["logit_error_torch_bf16"]
    assert "torch.eager" in Path("r.svg").read_text()
    assert records[0]["positions"] == [4, 11]
    assert records[0]["ms_min"] <= records[0]["ms"] <= records[0]["ms_max"]
    wanted = {"benchmark", "system", "model", "gpu", "batch", "runs", "floor_ms", "commit", "date"}
    assert wanted <= records[0].keys()


def test_every_pass_is_listed_with_its_options(capsys: pytest.CaptureFixture[str]):
    mpk_opt.main(["--list-passes"])
    text = capsys.readouterr().out
    for name in ("mpk-raise", "mpk-schedule-tasks", "mpk-verify-schedule", "mpk-pipeline"):
        assert f"\n{name}\n" in f"\n{text}"
    assert "{target=h100}" in text
