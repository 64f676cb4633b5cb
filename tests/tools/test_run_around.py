"""Runs before and after passes: what counts as different, and whole models through every pass."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, PreTrainedConfig, Qwen3MoeConfig
from xdsl.dialects.builtin import ModuleOp

from mpkir.errors import MpkirError
from mpkir.frontend import decode_step, model_from_config
from mpkir.pipeline import DefaultPipelinePass, context
from mpkir.tools.random_run import Numbers
from mpkir.tools.run_around import RunAround, compare, run_around

BF16 = ml_dtypes.bfloat16
X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)


def changed(index: tuple[int, ...], value: float) -> np.ndarray:
    result = X.copy()
    result[index] = value
    return result


def test_equal_results_are_told_to_be_identical():
    counts = np.arange(4)
    note = compare({"a": X, "b": counts}, {"a": X, "b": counts}, 0.0, "p")
    assert note == "2 outputs and states identical"


def test_small_differences_of_floats_are_told():
    note = compare({"a": X, "b": X}, {"a": X, "b": changed((1, 2), X[1, 2] + 1e-3)}, 1e-3, "p")
    assert note.startswith("2 outputs and states at most 0.001 apart (b)")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (X, changed((2, 1), 9.0), r"a\[2, 1\] was 1.27\d+ and is 9.0, 7.7\d+ apart.*1 of 12 elem"),
        (X, changed((0, 0), np.nan), r"a\[0, 0\] was -2.0 and is nan, inf apart"),
        (np.array(7), np.array(8), "a was 7 and is 8, 1 apart, allowed is 0"),
        (np.array([2**60]), np.array([2**60 + 1]), r"a\[0\] was 1152921504606846976 and is"),
        (X, X.T, r"a was float32\[3, 4\] and is float32\[4, 3\]"),
        (X, X.astype(BF16), r"a was float32\[3, 4\] and is bfloat16\[3, 4\]"),
    ],
)
def test_the_first_difference_is_named(before: np.ndarray, after: np.ndarray, message: str):
    with pytest.raises(MpkirError, match=message) as caught:
        compare({"same": X, "a": before}, {"same": X, "a": after}, 0.01, "the-pass")
    assert caught.value.where == "the-pass"
    assert "1 of 2 outputs and states differ" in str(caught.value)


def test_a_result_that_is_gone():
    with pytest.raises(MpkirError, match="a is gone"):
        compare({"a": X}, {}, 0.01, "p")


def test_infinities_and_what_is_no_number_may_stay():
    odd = changed((0, 0), np.nan)
    odd[0, 1] = np.inf
    assert "identical" in compare({"a": odd}, {"a": odd.copy()}, 0.0, "p")


SHAPE = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    vocab_size=80,
    max_position_embeddings=64,
)
MODELS = {
    "llama": LlamaConfig(**SHAPE),
    "mixture": Qwen3MoeConfig(
        **SHAPE,
        moe_intermediate_size=24,
        num_experts=4,
        num_experts_per_tok=2,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        bos_token_id=None,
        eos_token_id=None,
    ),
}


def step_of(config: PreTrainedConfig) -> ModuleOp:
    return decode_step(model_from_config(config, torch.float32), 32)


@pytest.mark.parametrize("name", MODELS)
def test_models_go_through_every_pass(name: str, capsys: pytest.CaptureFixture[str]):
    module = step_of(MODELS[name])
    stages = list(run_around([DefaultPipelinePass(target="h100", workers=4)], "all", seed=3))
    assert all(isinstance(stage, RunAround) for stage in stages)
    for stage in stages:
        stage.apply(context(), module)
    told = capsys.readouterr().err
    assert told.count("outputs and states") == len(stages)
    assert "mpk-schedule-tasks: 6 outputs and states identical after 3 steps" in told


def test_numbers_depend_on_the_seed_alone():
    module = step_of(MODELS["llama"])
    first, same, other = (Numbers.random(module, seed) for seed in (1, 1, 2))
    assert all((first.weights[name] == same.weights[name]).all() for name in first.weights)
    assert any((first.weights[name] != other.weights[name]).any() for name in first.weights)
    tokens = first.states["tokens"]
    assert first.position + first.steps <= 32
    assert (tokens[: first.position + first.steps] >= 0).all()
    assert (tokens[first.position + first.steps :] == -1).all()
