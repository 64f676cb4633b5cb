"""Architectures that nothing here was written for, with random weights in fp32: logits on the CPU.

docs/models.md says what was tried besides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from mpkir import LanguageModel, MpkirError
from mpkir.frontend import decode_step, model_from_config

TOKENS, CAPACITY = 40, 64
_SHAPE: dict[str, Any] = dict(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    pad_token_id=0,
    eos_token_id=None,
)
_GPT: dict[str, Any] = dict(
    vocab_size=256, n_positions=128, n_embd=64, n_layer=1, n_head=4, eos_token_id=None
)
_OLD: dict[str, Any] = dict(
    vocab_size=256,
    hidden_size=64,
    num_hidden_layers=1,
    num_attention_heads=4,
    max_position_embeddings=128,
    eos_token_id=None,
)
# The window is shorter than the text; a layer of each kind.
_TWO_KINDS: dict[str, Any] = _SHAPE | dict(
    num_hidden_layers=2,
    sliding_window=16,
    layer_types=["sliding_attention", "full_attention"],
)
_LONG_ROPE: dict[str, Any] = dict(
    rope_type="longrope",
    rope_theta=10000.0,
    short_factor=[1.0 + 0.1 * i for i in range(8)],
    long_factor=[2.0 + 0.1 * i for i in range(8)],
    original_max_position_embeddings=32,
)
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    # Soft caps, norms before and behind, a window in every other layer.
    "gemma2": ("Gemma2Config", _TWO_KINDS | dict(head_dim=16, query_pre_attn_scalar=16)),
    # Rotary frequencies that differ by layer.
    "gemma3": ("Gemma3TextConfig", _TWO_KINDS | dict(head_dim=16, query_pre_attn_scalar=16)),
    # The text's part of a model that also takes images.
    "gemma3-images": (
        "Gemma3Config",
        dict(
            text_config=_TWO_KINDS | dict(head_dim=16, query_pre_attn_scalar=16, vocab_size=300),
            vision_config=dict(
                hidden_size=32,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=28,
                patch_size=14,
            ),
            image_token_index=299,
            boi_token_index=298,
            eoi_token_index=297,
            mm_tokens_per_image=4,
        ),
    ),
    "phi3-longrope": ("Phi3Config", _SHAPE | dict(rope_parameters=_LONG_ROPE)),
    # Products with weights that lie the other way, learned positions.
    "gpt2": ("GPT2Config", _GPT),
    # Gathers rows of a table of sines.
    "gptj": ("GPTJConfig", _GPT | dict(rotary_dim=8)),
    # Asks how long the text is.
    "opt": ("OPTConfig", _OLD | dict(ffn_dim=96, word_embed_proj_dim=64)),
    # Asks for values of its mask.
    "biogpt": ("BioGptConfig", _OLD | dict(intermediate_size=96)),
    # One key head by another name; then attention with linear biases.
    "falcon": ("FalconConfig", _OLD),
    "bloom": ("BloomConfig", dict(vocab_size=256, hidden_size=64, n_layer=1, n_head=4)),
    # Norms of heads with weights and biases, a part of each head rotated.
    "persimmon": ("PersimmonConfig", _OLD | dict(intermediate_size=96)),
    "olmo2": ("Olmo2Config", _SHAPE),
    "cohere2": ("Cohere2Config", _TWO_KINDS),
    "glm4": ("Glm4Config", _SHAPE | dict(head_dim=16)),
    # Sinks beside the scores, experts with biases.
    "gpt-oss": (
        "GptOssConfig",
        _TWO_KINDS | dict(head_dim=16, num_local_experts=4, num_experts_per_tok=2),
    ),
    # Keeps latents; experts chosen by groups.
    "deepseek-v3": (
        "DeepseekV3Config",
        _SHAPE
        | dict(
            num_hidden_layers=2,
            num_key_value_heads=4,
            q_lora_rank=32,
            kv_lora_rank=32,
            qk_rope_head_dim=8,
            qk_nope_head_dim=16,
            v_head_dim=16,
            n_routed_experts=8,
            num_experts_per_tok=2,
            moe_intermediate_size=40,
            first_k_dense_replace=1,
            n_group=4,
            topk_group=2,
        ),
    ),
}


def in_steps(model: Any, tokens: torch.Tensor) -> np.ndarray:
    """PyTorch's logits [n, V], token by token with its own cache."""
    cache, rows = None, []
    with torch.no_grad():
        for token in tokens:
            result = model(input_ids=token[None, None], past_key_values=cache, use_cache=True)
            cache = result.past_key_values
            rows.append(result.logits[0, -1].numpy())
    return np.stack(rows)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_on_the_cpu(random_model: Callable[..., Any], name: str) -> None:
    config, values = ARCHITECTURES[name]
    model = random_model(getattr(transformers, config)(**values), torch.float32)
    tokens = torch.randint(3, 256, (TOKENS,))
    lm = LanguageModel.from_model(model, "cpu", capacity=CAPACITY, workers=2)
    logits = lm.logits(tokens.tolist()).numpy()
    np.testing.assert_allclose(logits, in_steps(model, tokens), atol=5e-5)


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        ("MambaConfig", dict(state_size=8), "its layers keep no keys and values"),
        (
            "Lfm2Config",
            dict(layer_types=["conv", "full_attention"]),
            "layer 0 keeps something else",
        ),
        (
            "GPTNeoConfig",
            dict(num_layers=1, num_heads=4, attention_types=[[["local"], 1]]),
            "works with a growing one only",
        ),
        (
            "LlamaConfig",
            dict(rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=2.0)),
            "asks for the value of a tensor",
        ),
    ],
)
def test_what_cannot_be_right_is_refused(config: str, values: dict[str, Any], message: str) -> None:
    small = dict(vocab_size=256, hidden_size=64)
    if config != "GPTNeoConfig":
        small |= dict(num_hidden_layers=2, num_attention_heads=4)
        small |= dict(num_key_value_heads=4)
    model = model_from_config(getattr(transformers, config)(**small, **values))
    with pytest.raises(MpkirError, match=message):
        decode_step(model, CAPACITY)


def test_one_that_does_not_run_without_values_is_refused_as_well(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("values are asked for")

    monkeypatch.setattr(torch.func, "functional_call", fail)
    config = transformers.GPTNeoConfig(
        vocab_size=256, hidden_size=64, num_layers=1, num_heads=4, attention_types=[[["local"], 1]]
    )
    with pytest.raises(MpkirError, match="works with a growing one only"):
        decode_step(model_from_config(config), CAPACITY)
