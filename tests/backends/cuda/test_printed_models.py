"""Printed programs of whole models, on stand-ins or on a GPU, give the logits of transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from mpkir.frontend import decode_step, weights_of
from mpkir.machine import machine_named
from mpkir.pipeline import lower
from mpkir.variant import Variant

_SMALL = dict(
    num_hidden_layers=2,
    vocab_size=160,
    hidden_size=72,
    intermediate_size=104,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=512,
)
_CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(head_dim=16, **_SMALL),
    "qwen2": lambda: Qwen2Config(head_dim=24, tie_word_embeddings=True, **_SMALL),
    "qwen3": lambda: Qwen3Config(head_dim=8, attention_bias=True, **_SMALL),
    "gemma2": lambda: Gemma2Config(
        head_dim=16, query_pre_attn_scalar=16, sliding_window=48, **_SMALL
    ),
    "first chunks join the others": lambda: Qwen3Config(head_dim=32, **_SMALL),
    "caches through the ring": lambda: LlamaConfig(head_dim=128, **_SMALL),
    "qwen3-moe": lambda: Qwen3MoeConfig(
        head_dim=16,
        num_experts=8,
        num_experts_per_tok=3,
        moe_intermediate_size=40,
        norm_topk_prob=True,
        eos_token_id=None,
        **_SMALL,
    ),
}


@pytest.mark.parametrize("handoffs", [("counter",), ("counter", "flag")], ids=["counter", "flag"])
@pytest.mark.parametrize("name", _CONFIGS)
@pytest.mark.parametrize(
    "where", [pytest.param("on_host"), pytest.param("on_gpu", marks=pytest.mark.cuda)]
)
@torch.no_grad()
def test_logits_and_tokens(
    name: str, where: str, handoffs: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(_CONFIGS[name](), dtype=torch.bfloat16).eval()
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
    machine = machine_named("h100", workers=5)
    tiles = replace(machine.tiles, attention_chunk=32, attention_bytes=0)
    ring = replace(machine.ring, caches=name.startswith("caches through"))
    machine = replace(machine, tiles=tiles, handoffs=handoffs, ring=ring)
    module = decode_step(model, 80)
    joins = ("mpk-split-reductions", "attention_joins", name.startswith("first chunks"))
    lower(module, machine, variant=Variant(options=(joins,)))
    program = request.getfixturevalue(where)(module, machine)
    program.bind(weights_of(model))
    program.bind({name: tensor for name, tensor in model.named_buffers()})
    program.buffers["tokens"][:4] = torch.tensor([3, 1, 4, 15])
    assert program.run(0, 70) == 70
    tokens = program.buffers["tokens"].cpu()
    exact = model.float()(tokens[None, :70], use_cache=False).logits[0]
    half = model.bfloat16()(tokens[None, :70], use_cache=False).logits[0].float()
    ours = program.buffers["logits"].cpu().flatten()
    bound = 1.5 * (half[-1] - exact[-1]).norm()
    assert (ours - exact[-1]).norm() <= bound
    gaps = exact[3:].topk(2, -1).values
    clear = gaps[:, 0] - gaps[:, 1] > 2 * (half[3:] - exact[3:]).abs().max(-1).values
    assert torch.equal(exact[3:].argmax(-1)[clear], tokens[4:71][clear])
