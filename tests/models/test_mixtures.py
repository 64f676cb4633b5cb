"""Mixtures of experts on the CPU and in the interpreter against PyTorch.

Where a router's two candidates are nearly equal, rounding decides which expert a token gets, and
logits jump. So fp32 models have to agree to the last digits and in every token, and bf16 models,
on the average over a sequence, be no further from the truth than 1.5 times PyTorch's own bf16.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers

from mpkir import LanguageModel
from mpkir.backends.interpreter import event_level, memory
from mpkir.compiler import weight_bytes_per_step
from mpkir.frontend import decode_step, weights_of
from mpkir.machine import machine_named
from mpkir.pipeline import lower

_SHAPE: dict[str, Any] = dict(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    eos_token_id=None,
)
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3-moe": (
        "Qwen3MoeConfig",
        dict(
            head_dim=16,
            moe_intermediate_size=40,
            num_experts=8,
            num_experts_per_tok=3,
            norm_topk_prob=True,
        ),
    ),
    "mixtral": ("MixtralConfig", dict(num_local_experts=4, num_experts_per_tok=2)),
    "olmoe": ("OlmoeConfig", dict(num_experts=8, num_experts_per_tok=3)),
    # With an expert that every token has.
    "qwen2-moe": (
        "Qwen2MoeConfig",
        dict(
            moe_intermediate_size=40,
            shared_expert_intermediate_size=56,
            num_experts=8,
            num_experts_per_tok=3,
        ),
    ),
}
TOKENS = 24


MakeModel = Callable[[str, torch.dtype], Any]


@pytest.fixture
def make_model(random_model: Callable[..., Any]) -> MakeModel:
    def make(name: str, dtype: torch.dtype) -> Any:
        architecture, values = _CONFIGS[name]
        return random_model(getattr(transformers, architecture)(**(_SHAPE | values)), dtype)

    return make


def logits_of(model: Any, tokens: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return model(tokens[None]).logits[0].float().numpy()


@pytest.mark.parametrize("name", _CONFIGS)
def test_fp32_model_agrees_in_logits_and_tokens(make_model: MakeModel, name: str) -> None:
    model = make_model(name, torch.float32)
    tokens = torch.randint(0, 256, (TOKENS,))
    lm = LanguageModel.from_model(model, "cpu", capacity=64, workers=2)
    np.testing.assert_allclose(
        lm.logits(tokens.tolist()).numpy(), logits_of(model, tokens), atol=2e-5
    )
    lm.program.reset()
    sequence = tokens[:6].tolist()
    chosen = lm.generate(sequence, max_new_tokens=16).tokens
    for token in chosen:
        assert token == int(logits_of(model, torch.tensor(sequence))[-1].argmax())
        sequence.append(token)


@pytest.mark.parametrize("name", ["qwen3-moe", "mixtral"])
def test_bf16_model_is_as_good_as_torch(make_model: MakeModel, name: str) -> None:
    """At event level, with the H100's schedule for five workers, and on the CPU."""
    model = make_model(name, torch.bfloat16)
    tokens = torch.randint(0, 256, (TOKENS,))
    exact = logits_of(copy.deepcopy(model).float(), tokens)
    bound = 1.5 * np.abs(logits_of(model, tokens) - exact).mean()
    module = decode_step(model, 32)
    lower(module, machine_named("h100", workers=5))
    weights = {
        name: value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        if value.dtype == torch.bfloat16
        else value.numpy()
        for name, value in weights_of(model).items()
    }
    program = event_level.EventProgram(module, weights)
    states = memory.initial_states(module)
    states["tokens"][:TOKENS] = tokens.numpy()
    interpreted = np.concatenate(
        [program.run(states, {}, p, seed=p).outputs["logits"][0] for p in range(TOKENS)]
    )
    computed = LanguageModel.from_model(model, "cpu", capacity=32, workers=2).logits(
        tokens.tolist()
    )
    assert np.abs(interpreted - exact).mean() <= bound
    assert np.abs(computed.numpy() - exact).mean() <= bound


def test_floor_counts_the_chosen_experts(make_model: MakeModel) -> None:
    model = make_model("qwen3-moe", torch.bfloat16)
    module = decode_step(model, 32)
    lower(module, machine_named("h100", workers=5))
    config = model.config
    experts = config.num_hidden_layers * 3 * config.moe_intermediate_size * config.hidden_size
    total = sum(parameter.numel() for parameter in model.parameters())
    embedding = (config.vocab_size - 1) * config.hidden_size
    unused = experts * (config.num_experts - config.num_experts_per_tok) + embedding
    frequencies = 4 * config.head_dim // 2
    assert weight_bytes_per_step(module) == 2 * (total - unused) + frequencies
