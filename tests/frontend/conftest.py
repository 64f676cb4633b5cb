"""Small causal language models with random weights, as transformers builds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import transformers

_SHAPE: dict[str, Any] = dict(
    hidden_size=96,
    intermediate_size=160,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=256,
    max_position_embeddings=512,
)
_LLAMA3_ROPE: dict[str, Any] = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
_SMOLLM2: dict[str, Any] = _SHAPE | dict(
    hidden_size=72,
    num_attention_heads=9,
    num_key_value_heads=3,
    head_dim=8,
    tie_word_embeddings=True,
)
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _SHAPE),
    "llama3-rope": ("LlamaConfig", _SHAPE | dict(rope_parameters=_LLAMA3_ROPE)),
    "smollm2": ("LlamaConfig", _SMOLLM2),
    "qwen2": ("Qwen2Config", _SHAPE),
    "qwen3": ("Qwen3Config", _SHAPE),
    "mistral": ("MistralConfig", _SHAPE | dict(sliding_window=32)),
    "partial-rotary": ("StableLmConfig", _SHAPE | dict(head_dim=None)),
    "interleaved-rotary": ("HeliumConfig", _SHAPE),
}


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make_config() -> Callable[..., transformers.PreTrainedConfig]:
    def make(
        architecture: str, attention: str = "sdpa", **changes: Any
    ) -> transformers.PreTrainedConfig:
        name, values = ARCHITECTURES[architecture]
        config = getattr(transformers, name)(**(values | changes))
        config._attn_implementation = attention
        return config

    return make


@pytest.fixture
def make_model(
    make_config: Callable[..., Any], random_model: Callable[..., Any]
) -> Callable[..., transformers.PreTrainedModel]:
    """A bf16 model on the CPU whose weights are random."""

    def make(architecture: str, attention: str = "sdpa", **changes: Any) -> Any:
        return random_model(make_config(architecture, attention, **changes))

    return make
