"""PyTorch's answers in fp32 without a model in fp32; caches as they are before they are divided."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mpkir.runtime.manifest import Manifest
from mpkir.tools.bench.checks import Reference
from mpkir.tools.bench.records import caches_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LeanReference(Reference):
    """A model in bf16 and in fp32 whose weights lie there once, in bf16: each is widened when a
    product comes to it, which is exact."""

    def __init__(self, bf16: PreTrainedModel, device: torch.device) -> None:
        self.bf16, self.device = bf16, device
        shared: dict[int, Any] = {id(each): each for each in bf16.parameters()}
        self.fp32 = deepcopy(bf16, shared)
        for module in self.fp32.modules():
            if isinstance(module, nn.Linear):
                module.forward = partial(_wide_linear, module)
            elif isinstance(module, nn.Embedding):
                module.forward = partial(_wide_embedding, module)


def undivided(manifest: Manifest, config: Any) -> Manifest:
    """A program's manifest, whose caches have all heads of the model."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    caches = {cache.name for cache in caches_of(manifest)}
    buffers = tuple(
        replace(b, shape=(b.shape[0], heads, *b.shape[2:])) if b.name in caches else b
        for b in manifest.buffers
    )
    return replace(manifest, buffers=buffers)


def _wide_linear(module: nn.Linear, input: torch.Tensor) -> torch.Tensor:
    bias = None if module.bias is None else module.bias.float()  # pyright: ignore[reportUnnecessaryComparison]
    return nn.functional.linear(input.float(), module.weight.float(), bias)


def _wide_embedding(module: nn.Embedding, input: torch.Tensor) -> torch.Tensor:
    return nn.functional.embedding(input, module.weight).float()
