"""Queries, keys and values as one product: the same numbers as three, and PyTorch's."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from xdsl.passes import ModulePass

from mpkir import LanguageModel
from mpkir.dialects import task, tensor
from mpkir.frontend import decode_step, weights_of
from mpkir.passes.fuse_operators import FuseOperatorsPass
from mpkir.passes.join_linears import JoinLinearsPass
from mpkir.passes.partition_tiles import PartitionTilesPass
from mpkir.passes.raise_operators import RaiseOperatorsPass
from mpkir.passes.widen_activations import WidenActivationsPass
from mpkir.pipeline import context
from mpkir.tools.random_run import Numbers

LAYERS = 2
_BIASES = {"Qwen2Config": True}


def model_of(config: str) -> Any:
    """A small model, its biases and norms random too."""
    torch.manual_seed(0)
    shape: dict[str, Any] = dict(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=128,
        max_position_embeddings=64,
    )
    made = getattr(transformers, config)(**shape)
    model = transformers.AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) / 4)
    return model


def lowered(model: Any, *stages: ModulePass) -> Any:
    module = decode_step(model, 32)
    ctx = context()
    for stage in (RaiseOperatorsPass(), FuseOperatorsPass(), WidenActivationsPass(), *stages):
        stage.apply(ctx, module)
    module.verify()
    return module


@pytest.fixture(params=["LlamaConfig", "Qwen2Config", "Qwen3Config"])
def config(request: pytest.FixtureRequest) -> str:
    return request.param


def test_one_product_computes_what_three_do(config: str):
    model = model_of(config)
    apart, joined = lowered(model), lowered(model, JoinLinearsPass())
    with_tasks = lowered(model, JoinLinearsPass(), PartitionTilesPass(workers=3))
    weights = [op for op in joined.walk() if isinstance(op, tensor.WeightOp) and op.parts]
    each = 2 if config in _BIASES else 1
    assert len(weights) == LAYERS * each
    assert weights[0].sym.data == "model.layers.0.self_attn.q_proj+k_proj+v_proj.weight"
    assert weights[0].parts.items[1] == ("model.layers.0.self_attn.k_proj.weight", 32)
    copies = [op for op in with_tasks.walk() if isinstance(op, tensor.ReshapeOp)]
    assert not copies, "slices are views"
    # Embedding, logits, argmax, append; in a layer this, attention, its output and two of the MLP.
    assert sum(isinstance(op, task.GridOp) for op in with_tasks.walk()) == 4 + LAYERS * 5
    numbers = Numbers.random(apart, seed=0)
    wanted = numbers.run(apart, seed=0)
    for module in (joined, with_tasks):
        found = numbers.run(module, seed=0)
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            # NumPy adds up in another order; a sum may then fall on the other side of a tie.
            difference = np.abs(found[name].astype(np.float64) - value.astype(np.float64))
            assert difference.max() <= (0 if value.dtype == np.int64 else 0.01), name


def test_on_the_cpu(tmp_path: Path):
    model = model_of("Qwen2Config")
    machine = json.loads(files("mpkir.machines").joinpath("cpu.json").read_text())
    machine["tiles"]["joined_bytes"] = 1 << 20
    machine["workers"] = 2
    target = tmp_path / "joining.json"
    target.write_text(json.dumps(machine))
    apart = LanguageModel.from_model(model, "cpu", capacity=32, workers=2)
    joined = LanguageModel.from_model(model, str(target), capacity=32, output=tmp_path / "joined")
    tokens = torch.randint(128, (20,)).tolist()
    found = joined.logits(tokens)
    assert torch.equal(found, apart.logits(tokens))
    with torch.no_grad():
        exact = model.float()(torch.tensor([tokens])).logits[0]
    assert (found - exact).abs().max() < 0.02 * exact.abs().max()
    # What was stored in the artifact are the model's own tensors.
    again = LanguageModel.load(tmp_path / "joined")
    assert torch.equal(again.logits(tokens), found)
    names = set(again.program.artifact.weights())
    assert "model.layers.1.self_attn.k_proj.bias" in names
    assert names <= weights_of(model).keys()
