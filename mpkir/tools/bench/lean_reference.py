"""PyTorch's answers in fp32 without a model in fp32."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mpkir.tools.bench.checks import Reference

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def reference_of(bf16: PreTrainedModel, device: torch.device) -> Reference:
    """A reference that leaves a GPU room for a program with weights of its own."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        copies = sum(each.numel() for each in bf16.parameters()) * (4 + 2)  # fp32, and a program
        if copies > torch.cuda.mem_get_info(device)[0]:
            return LeanReference(bf16, device)
    return Reference(bf16, device)


class LeanReference(Reference):
    """A model in bf16 and in fp32 whose weights lie there once, in bf16: each is widened when a
    product comes to it, which is exact."""

    def __init__(self, bf16: PreTrainedModel, device: torch.device) -> None:
        self.bf16, self.device = bf16, device
        shared: dict[int, Any] = {id(each): each for each in bf16.parameters()}
        self.fp32 = deepcopy(bf16, shared)
        for module in self.fp32.modules():
            if isinstance(module, nn.Embedding):
                module.forward = partial(_wide_embedding, module)
            elif module._parameters:
                module.forward = partial(_widened, module, module.forward)


def _widened(module: nn.Module, forward: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """A module's forward on its own parameters in fp32, which go when it is over."""
    held = dict(module._parameters)
    for name, parameter in held.items():
        if parameter is not None:
            module._parameters[name] = nn.Parameter(parameter.float(), requires_grad=False)
    try:
        return forward(*args, **named)
    finally:
        module._parameters.update(held)


def _wide_embedding(module: nn.Embedding, input: torch.Tensor) -> torch.Tensor:
    return nn.functional.embedding(input, module.weight).float()
