"""Known models by name: configurations at their true shapes, for measurements that need no values
of weights. Nothing of the compiler looks here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


_QWEN3: dict[str, Any] = dict(
    vocab_size=151936, max_position_embeddings=40960, rms_norm_eps=1e-6, rope_theta=1000000.0
)
"""What all of Qwen3's models have in common."""


def configurations() -> dict[str, PreTrainedConfig]:
    """Configurations by the names that results use; `small` and `small-mixture` serve checks."""
    import transformers

    llama: Any = transformers.LlamaConfig
    qwen3: Any = transformers.Qwen3Config
    llama_3_1 = _llama_3(8.0, head_dim=128, tie_word_embeddings=False)
    dense: dict[str, Any] = dict(num_key_value_heads=8, head_dim=128, **_QWEN3)
    return {
        "small": qwen3(
            vocab_size=512,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
        ),
        "smollm2-135m": llama(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=8192,
            rms_norm_eps=1e-5,
            rope_theta=100000.0,
            tie_word_embeddings=True,
        ),
        "llama-3.2-1b": llama(
            vocab_size=128256,
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=16,
            num_attention_heads=32,
            **_llama_3(32.0, head_dim=64, tie_word_embeddings=True),
        ),
        "qwen3-0.6b": qwen3(
            hidden_size=1024,
            intermediate_size=3072,
            num_hidden_layers=28,
            num_attention_heads=16,
            tie_word_embeddings=True,
            **dense,
        ),
        "qwen3-1.7b": qwen3(
            hidden_size=2048,
            intermediate_size=6144,
            num_hidden_layers=28,
            num_attention_heads=16,
            tie_word_embeddings=True,
            **dense,
        ),
        "qwen3-8b": qwen3(
            hidden_size=4096,
            intermediate_size=12288,
            num_hidden_layers=36,
            num_attention_heads=32,
            tie_word_embeddings=False,
            **dense,
        ),
        "qwen3-32b": qwen3(
            hidden_size=5120,
            intermediate_size=25600,
            num_hidden_layers=64,
            num_attention_heads=64,
            tie_word_embeddings=False,
            **dense,
        ),
        "llama-3.1-70b": llama(
            vocab_size=128256,
            hidden_size=8192,
            intermediate_size=28672,
            num_hidden_layers=80,
            num_attention_heads=64,
            **llama_3_1,
        ),
        "llama-3.1-405b": llama(
            vocab_size=128256,
            hidden_size=16384,
            intermediate_size=53248,
            num_hidden_layers=126,
            num_attention_heads=128,
            **llama_3_1,
        ),
        "small-mixture": _qwen3_moe(
            hidden_size=1024,
            num_hidden_layers=4,
            num_attention_heads=16,
            moe_intermediate_size=512,
        ),
        "qwen3-30b-a3b": _qwen3_moe(
            hidden_size=2048,
            intermediate_size=6144,
            moe_intermediate_size=768,
            num_hidden_layers=48,
            num_attention_heads=32,
        ),
        "qwen3-235b-a22b": _qwen3_moe(
            hidden_size=4096,
            intermediate_size=12288,
            moe_intermediate_size=1536,
            num_hidden_layers=94,
            num_attention_heads=64,
        ),
    }


def _llama_3(factor: float, **shape: Any) -> dict[str, Any]:
    """What Llama 3.1's and 3.2's models have in common; `factor` stretches the rotation."""
    return dict(
        num_key_value_heads=8,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling={
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        **shape,
    )


def _qwen3_moe(**shape: Any) -> PreTrainedConfig:
    """What Qwen3's mixtures of experts have in common: 128 experts, 8 for each token."""
    import transformers

    qwen3_moe: Any = transformers.Qwen3MoeConfig
    return qwen3_moe(
        num_key_value_heads=4,
        head_dim=128,
        num_experts=128,
        num_experts_per_tok=8,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        **_QWEN3,
        **shape,
    )
