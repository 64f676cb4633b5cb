"""A GGUF file is expanded once; what is kept is the same model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from mpkir import checkpoints
from mpkir.frontend import LoadedModel, load_model, weights_of


@pytest.fixture
def expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Which files are read the slow way; every GGUF file holds the same small model."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        tie_word_embeddings=True,
        eos_token_id=7,
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    model.generation_config.eos_token_id = [7, 9]
    read: list[Path] = []

    def load(path: Path) -> LoadedModel:
        if path.suffix != ".gguf":
            return load_model(path)
        read.append(path)
        return LoadedModel(model, None, (7, 9))

    monkeypatch.setattr(checkpoints, "load_model", load)
    monkeypatch.setenv("MPKIR_CACHE", str(tmp_path / "cache"))
    return read


def test_the_second_time_it_comes_from_the_cache(expanded: list[Path], tmp_path: Path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF one")
    first = checkpoints.load_checkpoint(file)
    again = checkpoints.load_checkpoint(file)
    assert expanded == [file]
    assert again.stop == first.stop
    assert again.tokenizer is None
    wanted, found = weights_of(first.model), weights_of(again.model)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_another_content_is_another_model(expanded: list[Path], tmp_path: Path):
    file = tmp_path / "model.gguf"
    for content in (b"GGUF one", b"GGUF two"):
        file.write_bytes(content)
        checkpoints.load_checkpoint(file)
    assert expanded == [file, file]


def test_a_cache_that_cannot_be_written_is_no_error(
    expanded: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "occupied").write_text("a file")
    monkeypatch.setenv("MPKIR_CACHE", str(tmp_path / "occupied"))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF one")
    assert checkpoints.load_checkpoint(file).stop == (7, 9)
    assert checkpoints.load_checkpoint(file).stop == (7, 9)
    assert len(expanded) == 2
