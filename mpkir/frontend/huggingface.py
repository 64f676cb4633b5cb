"""Models from Hugging Face: from a configuration alone, a directory, a hub name or a GGUF file."""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from mpkir.errors import MpkirError


def model_from_config(
    config: PreTrainedConfig, dtype: torch.dtype = torch.bfloat16
) -> PreTrainedModel:
    """A causal language model without weight values: parameters on the meta device, buffers (rotary frequencies) real."""
    from accelerate import init_empty_weights

    try:
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    except ValueError as error:
        raise MpkirError(
            f"no causal language model for the architecture '{config.model_type}'",
            hint="mpkir loads what transformers' AutoModelForCausalLM knows",
        ) from error
    return model.eval()


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer by its name in the program, tied ones under each of their names.

    Buffers that a state_dict leaves out (rotary frequencies) are included. Tensors are the model's own, not copies.
    """
    weights: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        weights[name] = parameter.detach()
    for name, buffer in model.named_buffers(remove_duplicate=False):
        weights[name] = buffer
    return weights
