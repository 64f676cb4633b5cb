"""A GGUF file is expanded once; what is kept is the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from mpkir import checkpoints
from mpkir.errors import MpkirError
from mpkir.frontend import LoadedModel, load_model, model_from_config, weights_of
from mpkir.language_model import compile_language_model
from mpkir.runtime.arrangement import Stacked
from mpkir.runtime.artifact import load_artifact
from mpkir.runtime.generation import LoadedLanguageModel
from mpkir.runtime.weights import TensorFiles


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


@pytest.fixture
def directory(expanded: list[Path], tmp_path: Path) -> Path:
    """The small model as transformers saves it."""
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF one")
    path = tmp_path / "model"
    checkpoints.load_checkpoint(file).save(path)
    return path


def test_an_open_checkpoint_has_its_weights_in_the_files(directory: Path):
    opened, loaded = checkpoints.open_checkpoint(directory), checkpoints.load_checkpoint(directory)
    assert isinstance(opened.weights, TensorFiles)
    assert opened.loaded.stop == loaded.stop
    parameters = dict(opened.loaded.model.named_parameters(remove_duplicate=False))
    assert {parameter.device.type for parameter in parameters.values()} == {"meta"}
    values = weights_of(loaded.model)
    # The file has one of the two names of the tied weight.
    assert "lm_head.weight" not in load_file(directory / "model.safetensors")
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= parameters.keys()
    for name in parameters:
        assert torch.equal(opened.weights[name], values[name])
        assert opened.weights.shape_of(name) == tuple(values[name].shape)


def test_weights_of_another_type_are_converted(directory: Path):
    file = directory / "model.safetensors"
    held = load_file(file)
    save_file({name: tensor.float() for name, tensor in held.items()}, file)
    opened = checkpoints.open_checkpoint(directory)
    assert isinstance(opened.weights, TensorFiles)
    name = "model.layers.0.mlp.up_proj.weight"
    assert opened.weights.rows_of(name, 3, 5).dtype == torch.bfloat16
    assert torch.equal(opened.weights[name], held[name])


_MIXTURE: dict[str, Any] = dict(
    hidden_size=32, intermediate_size=48, moe_intermediate_size=16, vocab_size=64
)
_HEADS: dict[str, Any] = dict(num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2)


@pytest.mark.parametrize(
    ("config", "expert"),
    [
        (
            transformers.MixtralConfig(**_MIXTURE, **_HEADS, num_local_experts=12),
            "model.layers.1.block_sparse_moe.experts.11.w3.weight",
        ),
        (
            transformers.Qwen3MoeConfig(**_MIXTURE, **_HEADS, num_experts=12),
            "model.layers.1.mlp.experts.11.up_proj.weight",
        ),
        (
            transformers.DeepseekV3Config(
                **_MIXTURE,
                **_HEADS,
                n_routed_experts=12,
                first_k_dense_replace=1,
                n_group=2,
                topk_group=1,
                q_lora_rank=16,
            ),
            "model.layers.1.mlp.experts.11.up_proj.weight",
        ),
    ],
    ids=["renamed", "stacked", "with-buffers"],
)
def test_experts_are_read_from_their_files(
    config: transformers.PreTrainedConfig, expert: str, tmp_path: Path
):
    """Files have a matrix for each, the model a stack; what is read are the rows asked for."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    for name, buffer in model.named_buffers():
        if name in model.state_dict():
            buffer.normal_()
    LoadedModel(model, None, ()).save(tmp_path)
    assert expert in load_file(tmp_path / "model.safetensors")
    weights = checkpoints.open_checkpoint(tmp_path).weights
    assert isinstance(weights, TensorFiles)
    values = weights_of(model)
    for name in model.state_dict():
        assert weights.shape_of(name) == tuple(values[name].shape)
        assert torch.equal(weights[name], values[name])
    stack = "model.layers.1.mlp.experts.gate_up_proj"
    box = ((9, 12), (13, 19), (3, 32))
    assert torch.equal(weights.box_of(stack, box), values[stack][9:12, 13:19, 3:32])
    held = load_file(tmp_path / "model.safetensors")
    del held[expert]
    save_file(held, tmp_path / "model.safetensors")
    with pytest.raises(MpkirError, match="cannot load a causal language model"):
        checkpoints.open_checkpoint(tmp_path)


@pytest.mark.parametrize("tied", [False, True])
def test_a_compiled_mixture_refers_to_its_files(tied: bool, tmp_path: Path):
    """What an artifact is told is how to make stacks of the files' experts, not the stacks."""
    torch.manual_seed(0)
    config = transformers.Qwen3MoeConfig(
        **_MIXTURE, **_HEADS, num_experts=4, num_experts_per_tok=2, tie_word_embeddings=tied
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    LoadedModel(model, None, ()).save(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    output = tmp_path / "compiled"
    empty = model_from_config(config)
    artifact = compile_language_model(
        empty, capacity=16, workers=2, output=output, weight_files=[file]
    )
    stack = "model.layers.0.mlp.experts.down_proj"
    parts = tuple(f"model.layers.0.mlp.experts.{i}.down_proj.weight" for i in range(4))
    assert artifact.manifest.made_weights[stack] == Stacked(parts, 0)
    assert load_artifact(output).manifest == artifact.manifest
    tokens = [3, 1, 4, 1, 5]
    found = LoadedLanguageModel.load(output).logits(tokens)
    wanted = model.float()(torch.tensor([tokens])).logits[0].detach()
    assert (found - wanted).abs().max() < 0.02 * wanted.abs().max()


def test_files_that_lack_weights_are_told_before_anything_is_written(
    expanded: list[Path], tmp_path: Path
):
    (tmp_path / "model.gguf").write_bytes(b"GGUF one")
    model = checkpoints.load_checkpoint(tmp_path / "model.gguf").model
    held = {k: v.clone() for k, v in weights_of(model).items() if "self_attn" not in k}
    save_file(held, tmp_path / "part.safetensors")
    with pytest.raises(MpkirError, match=r"self_attn.* and \d more not in the files.*--weights"):
        compile_language_model(
            model_from_config(model.config),
            workers=2,
            output=tmp_path / "compiled",
            weight_files=[tmp_path / "part.safetensors"],
        )
    assert not (tmp_path / "compiled").exists()


def test_files_that_hold_other_tensors_are_loaded(directory: Path, monkeypatch: pytest.MonkeyPatch):
    file = directory / "model.safetensors"
    held = load_file(file)
    held["model.layers.0.mlp.up.weight"] = held.pop("model.layers.0.mlp.up_proj.weight")
    save_file(held, file)
    whole = LoadedModel(torch.nn.Linear(2, 2), None, ())  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(checkpoints, "load_model", lambda path: whole)
    opened = checkpoints.open_checkpoint(directory)
    assert opened.loaded is whole
    assert opened.weights.keys() == {"weight", "bias"}


def test_quantized_files_are_loaded(directory: Path, monkeypatch: pytest.MonkeyPatch):
    """Their tensors have names and shapes of the model's, but are no values of it."""
    file = directory / "config.json"
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    config = json.loads(file.read_text()) | {"quantization_config": settings}
    file.write_text(json.dumps(config))
    whole = LoadedModel(torch.nn.Linear(2, 2), None, ())  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(checkpoints, "load_model", lambda path: whole)
    assert checkpoints.open_checkpoint(directory).loaded is whole


def test_a_gguf_file_is_opened_where_it_was_expanded(expanded: list[Path], tmp_path: Path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF one")
    for _ in range(2):
        assert isinstance(checkpoints.open_checkpoint(file).weights, TensorFiles)
    assert expanded == [file]
