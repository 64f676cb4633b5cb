"""Programs as text, models from transformers, random weights for both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from xdsl.context import Context
from xdsl.dialects.arith import Arith
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.dialects.func import Func
from xdsl.dialects.math import Math
from xdsl.parser import Parser

from mpkir.backends.interpreter.values import element_type_of, storage_dtype
from mpkir.dialects import event, task, tensor
from mpkir.frontend import weights_of

SHAPE: dict[str, Any] = dict(
    hidden_size=96,
    intermediate_size=160,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=256,
    max_position_embeddings=640,
)
ARCHITECTURES: dict[str, transformers.PreTrainedConfig] = {
    "llama": transformers.LlamaConfig(**SHAPE),
    "qwen3": transformers.Qwen3Config(**SHAPE),
    # SmolLM2's proportions: 9 heads on 3, so that no size is a multiple of another.
    "smollm2": transformers.LlamaConfig(
        **SHAPE | dict(hidden_size=72, num_attention_heads=9, num_key_value_heads=3, head_dim=8),
        tie_word_embeddings=True,
    ),
}


@dataclass
class Model:
    """A model with random weights, and the same as the interpreter wants them."""

    torch: Any
    weights: dict[str, np.ndarray]


def as_array(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


@pytest.fixture
def make_model(random_model: Callable[..., Any]) -> Callable[[str], Model]:
    def make(architecture: str) -> Model:
        model = random_model(ARCHITECTURES[architecture])
        weights = {name: as_array(tensor) for name, tensor in weights_of(model).items()}
        return Model(model, weights)

    return make


@pytest.fixture
def parse() -> Callable[[str], ModuleOp]:
    def parse(text: str) -> ModuleOp:
        context = Context()
        for dialect in (Builtin, Arith, Math, Func, tensor.Tensor, task.Task, event.Event):
            context.load_dialect(dialect)
        module = Parser(context, text).parse_module()
        module.verify()
        return module

    return parse


@pytest.fixture
def random_weights() -> Callable[[ModuleOp], dict[str, np.ndarray]]:
    def random_weights(module: ModuleOp) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        weights: dict[str, np.ndarray] = {}
        for op in module.walk():
            weight = isinstance(op, tensor.WeightOp) or (
                isinstance(op, task.BufferOp) and op.kind.data is task.BufferKind.WEIGHT
            )
            if weight:
                type = op.results[0].type
                values = rng.standard_normal(type.get_shape()) * 0.5
                weights[op.sym.data] = values.astype(storage_dtype(element_type_of(type)))
        return weights

    return random_weights
