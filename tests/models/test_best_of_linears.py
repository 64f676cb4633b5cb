"""Linears that keep the best of neighbours: tokens are those of an argmax that reads all logits."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import transformers

from mpkir import LanguageModel


@pytest.mark.parametrize(("best", "chunks"), [(8, 3), (12, 4), (12, 99)])
def test_on_the_cpu(best: int, chunks: int, tmp_path: Path, random_model) -> None:
    config = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=120,
        max_position_embeddings=64,
    )
    model = random_model(config)
    data = json.loads(files("mpkir.machines").joinpath("cpu.json").read_text())
    data["tiles"] |= {"argmax_best_of": best, "argmax_chunks": chunks, "max_rows": 40}
    data["workers"] = 2
    target = tmp_path / "keeping.json"
    target.write_text(json.dumps(data))
    reading = LanguageModel.from_model(model, "cpu", capacity=48, workers=2)
    keeping = LanguageModel.from_model(model, str(target), capacity=48)
    for seed in range(3):
        prompt = torch.randint(120, (5,), generator=torch.Generator().manual_seed(seed)).tolist()
        found = keeping.generate(prompt, max_new_tokens=40).tokens
        assert found == reading.generate(prompt, max_new_tokens=40).tokens
        assert torch.equal(keeping.logits(found), reading.logits(found))
