"""Imported and raised decode steps against PyTorch: error at most 1.5x that of its own bf16."""

from __future__ import annotations

import copy

import ml_dtypes
import numpy as np
import pytest
import torch
from xdsl.context import Context

from mpkir.backends.interpreter.tensor_level import TensorProgram, initial_states
from mpkir.frontend import decode_step, weights_of
from mpkir.passes.raise_operators import RaiseOperatorsPass

POSITIONS = (0, 1, 63, 64)
RAISED = set(
    "position state weight sequence_read embedding rms_norm layer_norm linear reshape attention "
    "elementwise output store_state argmax sequence_append".split()
)


def names_of(module) -> set[str]:
    """The tensor operators of the step itself, not of regions."""
    (step,) = module.body.block.ops
    return {op.name.removeprefix("mpk_tensor.") for op in step.body.block.ops} - {"func.return"}


def as_array(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def step_logits(module, model, tokens: torch.Tensor, tokens_per_step: int = 1) -> np.ndarray:
    """Logits [n, V] of the program, run over the whole sequence."""
    weights = {name: as_array(value) for name, value in weights_of(model).items()}
    program = TensorProgram(module, weights)
    states = initial_states(module)
    states["tokens"][: len(tokens)] = tokens.numpy()
    logits = [
        program.step(states, {}, position)["logits"][0]
        for position in range(0, len(tokens), tokens_per_step)
    ]
    return np.concatenate(logits)


def references(model, tokens: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the fp32 model and of PyTorch's bf16."""
    with torch.no_grad():
        exact = copy.deepcopy(model).float()(tokens[None]).logits[0]
        rounded = model(tokens[None]).logits[0].float()
    return exact.numpy(), rounded.numpy()


def check(logits: np.ndarray, exact: np.ndarray, rounded: np.ndarray) -> None:
    ours = np.abs(logits - exact).mean(axis=1)
    torchs = np.abs(rounded - exact).mean(axis=1)
    # A single position's error is a sample of few numbers: allow for a lucky one of PyTorch's.
    limit = 1.5 * np.maximum(torchs, torchs.mean())
    assert (ours <= limit)[list(POSITIONS)].all(), (ours / torchs)[list(POSITIONS)]


def raised_step_is_as_good_as_torch(model) -> None:
    tokens = torch.randint(0, 256, (65,))
    module = decode_step(model, 80)
    RaiseOperatorsPass().apply(Context(), module)
    module.verify()
    assert names_of(module) <= RAISED
    check(step_logits(module, model, tokens), *references(model, tokens))


def test_raised_decode_step_is_as_good_as_torch(make_model, architecture):
    raised_step_is_as_good_as_torch(make_model(architecture))


@pytest.mark.parametrize("architecture", ["qwen3", "mistral"])
def test_raised_step_of_eager_attention_is_as_good_as_torch(make_model, architecture):
    raised_step_is_as_good_as_torch(make_model(architecture, "eager"))


@pytest.mark.parametrize("architecture", ["llama3-rope", "mistral"])
def test_imported_decode_step_is_as_good_as_torch(make_model, architecture):
    model = make_model(architecture)
    tokens = torch.randint(0, 256, (65,))
    module = decode_step(model, 80)
    module.verify()
    check(step_logits(module, model, tokens), *references(model, tokens))


@pytest.mark.parametrize("tokens_per_step", [5, 13])
def test_prompt_step_is_as_good_as_torch(make_model, tokens_per_step):
    model = make_model("mistral", "sdpa")
    tokens = torch.randint(0, 256, (65,))
    module = decode_step(model, 80, tokens=tokens_per_step)
    RaiseOperatorsPass().apply(Context(), module)
    module.verify()
    check(step_logits(module, model, tokens, tokens_per_step), *references(model, tokens))


@pytest.mark.parametrize("architecture", ["qwen3", "mistral", "interleaved-rotary"])
def test_rows_of_a_batch_are_as_good_as_torch(make_model, architecture):
    model, rows = make_model(architecture), 3
    tokens = torch.randint(0, 256, (rows, 65))
    module = decode_step(model, 80, batch=rows)
    RaiseOperatorsPass().apply(Context(), module)
    module.verify()
    assert names_of(module) <= RAISED
    weights = {name: as_array(value) for name, value in weights_of(model).items()}
    program, states = TensorProgram(module, weights), initial_states(module)
    assert states["tokens"].shape == (rows, 81)
    states["tokens"][:, :65] = tokens.numpy()
    logits = [program.step(states, {}, position)["logits"] for position in range(65)]
    for row in range(rows):
        ours = np.concatenate([step[row] for step in logits])
        check(ours, *references(model, tokens[row]))
