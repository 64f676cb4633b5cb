"""Programs divided among ranks compute what they did before, on all ranks together."""

from __future__ import annotations

import copy
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from mpkir.backends.interpreter.all_ranks import AllRanks
from mpkir.backends.interpreter.tensor_level import TensorProgram, initial_states
from mpkir.dialects import tensor
from mpkir.frontend import decode_step, weights_of
from mpkir.passes.fuse_operators import FuseOperatorsPass
from mpkir.passes.join_linears import JoinLinearsPass
from mpkir.passes.raise_operators import RaiseOperatorsPass
from mpkir.passes.shard import ShardPass
from mpkir.passes.split_reductions import SplitReductionsPass
from mpkir.passes.widen_activations import WidenActivationsPass

PASSES = (
    FuseOperatorsPass(),
    WidenActivationsPass(),
    JoinLinearsPass(),
    SplitReductionsPass(attention_chunk=16, argmax_chunks=8),
)
CHEAP = 0.0005
"""Microseconds of an exchange with which even the weights of these models are worth dividing."""

SHAPE: dict[str, Any] = dict(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=160,
    max_position_embeddings=128,
)


def decoder(architecture: str, **changes: Any) -> Any:
    """An fp32 model of an architecture with random weights, large enough that logits differ."""
    config = getattr(transformers, architecture)(**(SHAPE | changes))
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=1 / math.sqrt(parameter.shape[1]))
            else:
                parameter.normal_(mean=1.0, std=0.1)
    return model.eval()


def raised(model: Any) -> ModuleOp:
    module = decode_step(model, 64)
    RaiseOperatorsPass().apply(Context(), module)
    return module


def divided(module: ModuleOp, tp: int, exchange_us: float | None = CHEAP) -> ModuleOp:
    module = module.clone()
    ShardPass(tp=tp, machine="h200", exchange_us=exchange_us).apply(Context(), module)
    module.verify()
    return module


def lowered(module: ModuleOp) -> ModuleOp:
    """After the other passes of the tensor level."""
    module = module.clone()
    for each in PASSES:
        each.apply(Context(), module)
    module.verify()
    return module


def arrays_of(model: Any) -> dict[str, np.ndarray]:
    return {
        name: value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        if value.dtype == torch.bfloat16
        else value.numpy()
        for name, value in weights_of(model).items()
    }


def check_same(model: Any, whole: ModuleOp, parts: ModuleOp, tolerance: float = 2e-5) -> None:
    """That both generate the same from a prompt, with the same logits, caches and tokens."""
    weights = arrays_of(model)
    programs = (TensorProgram(whole, weights), AllRanks(parts, weights))
    states = [initial_states(whole), initial_states(whole)]
    for held in states:
        held["tokens"][:3] = 5, 99, 17
    for position in range(6):
        wanted, found = (
            program.step(held, {}, position) for program, held in zip(programs, states, strict=True)
        )
        scale = np.abs(wanted["logits"]).max()
        assert np.abs(found["logits"] - wanted["logits"]).max() <= tolerance * scale
    assert (states[0]["tokens"] == states[1]["tokens"]).all()
    assert (states[0]["tokens"][:7] >= 0).all()
    for name, value in states[0].items():
        if name != "tokens":
            wanted = value.astype(np.float32)
            apart = np.abs(states[1][name].astype(np.float32) - wanted).max()
            assert apart <= tolerance * np.abs(wanted).max(), name


def shards_of(module: ModuleOp) -> dict[str, str]:
    """Which shard each weight, state and output is of; the shards of a weight with several."""
    result: dict[str, set[str]] = {}
    for op in module.walk():
        if isinstance(op, tensor.WeightOp | tensor.StateOp | tensor.OutputOp):
            shard = op.shard
            text = "-" if shard is None else f"{shard.dim.data} of {shard.of.data}"
            result.setdefault(op.sym.data, set()).add(text)
    return {name: ", ".join(sorted(found)) for name, found in result.items()}


def count(module: ModuleOp, kind: type) -> int:
    return sum(isinstance(op, kind) for op in module.walk())


@pytest.fixture(scope="module")
def models() -> dict[str, tuple[Any, ModuleOp]]:
    made = {
        "llama": decoder("LlamaConfig"),
        "llama-tied": decoder("LlamaConfig", tie_word_embeddings=True),
        "qwen3": decoder("Qwen3Config"),
        "qwen3-tied": decoder("Qwen3Config", tie_word_embeddings=True),
        "qwen2": decoder("Qwen2Config"),
    }
    return {name: (model, raised(model)) for name, model in made.items()}


@pytest.mark.parametrize("tp", [2, 4, 8])
@pytest.mark.parametrize("name", ["llama", "llama-tied", "qwen3", "qwen3-tied", "qwen2"])
def test_decoders_on_all_ranks(models: Any, name: str, tp: int) -> None:
    model, whole = models[name]
    parts = divided(whole, tp)
    check_same(model, whole, parts)
    check_same(model, lowered(whole), lowered(parts))
