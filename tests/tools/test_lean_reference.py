"""fp32 of weights that lie there in bf16 is fp32 of a copy of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from mpkir.tools.bench.checks import Reference
from mpkir.tools.bench.lean_reference import LeanReference

SIZES: dict[str, Any] = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=64,
)


@pytest.mark.parametrize(
    "config",
    [
        transformers.LlamaConfig(**SIZES, attention_bias=True),
        transformers.Qwen3MoeConfig(
            **SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32
        ),
    ],
    ids=["linears", "routers and stacks of experts"],
)
def test_it_gives_what_a_wide_copy_gives(config: transformers.PreTrainedConfig):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    tokens = torch.arange(12)[None]
    device = torch.device("cpu")
    wanted, lean = Reference(model, device), LeanReference(model, device)
    found = lean._forward(lean.fp32, tokens)
    torch.testing.assert_close(found, wanted._forward(wanted.fp32, tokens), rtol=0, atol=0)
    assert all(each.dtype == torch.bfloat16 for each in lean.fp32.parameters())
