"""Programs divided among ranks, through all passes: all ranks together do what one does alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from xdsl.dialects.builtin import ModuleOp

from mpkir.backends.interpreter import event_level, memory, task_level
from mpkir.dialects import event
from mpkir.dialects.event import Handoff
from mpkir.errors import MpkirError
from mpkir.frontend import decode_step, weights_of
from mpkir.machine import machine_named
from mpkir.passes.shard import ShardPass
from mpkir.pipeline import context, stages

PROMPT = [5, 7, 11]
STEPS = 5


def compiled(imported: ModuleOp, tp: int, *handoffs: str) -> ModuleOp:
    """For few workers, with as few tasks, and every product worth dividing."""
    module, h200 = imported.clone(), machine_named("h200", workers=3)
    tiles = replace(h200.tiles, max_rows=1 << 16, task_overhead=1 << 30, argmax_chunks=4)
    for stage in stages(replace(h200, tiles=tiles, handoffs=handoffs), tp=tp):
        if isinstance(stage, ShardPass):
            stage = replace(stage, exchange_us=0.0005)
        stage.apply(context(), module)
    module.verify()
    return module


def run(module: ModuleOp, weights: Any, order: event_level.Order) -> dict[str, np.ndarray]:
    """Outputs and states after some steps."""
    states = memory.initial_states(module)
    states["tokens"].reshape(-1)[: len(PROMPT)] = PROMPT
    done = event_level.run_steps(module, weights, states, {}, 0, STEPS, order=order)
    return done.outputs | states


@pytest.mark.parametrize("handoffs", [("counter",), ("counter", "flag")])
@pytest.mark.parametrize("architecture", ["Qwen3Config", "LlamaConfig"])
def test_ranks_together_do_what_one_does(
    architecture: str, handoffs: tuple[str, ...], random_model: Callable[..., Any]
) -> None:
    config = getattr(transformers, architecture)(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=160,
        max_position_embeddings=128,
    )
    model = random_model(config, torch.float32)
    imported = decode_step(model, 64)
    weights = {name: value.detach().numpy() for name, value in weights_of(model).items()}
    expected = run(compiled(imported, 1, *handoffs), weights, "random")
    assert (expected["tokens"].reshape(-1)[len(PROMPT) : STEPS + 1] >= 0).all()
    for tp in (2, 4):
        module = compiled(imported, tp, *handoffs)
        events = [op for op in module.walk() if isinstance(op, event.TensorOp)]
        assert any(op.handoff.data is Handoff.PEER for op in events)
        results = [run(module, weights, order) for order in ("random", "eager")]
        for name, value in results[0].items():
            # No timing shows in the numbers.
            np.testing.assert_array_equal(value, results[1][name])
            if value.dtype == np.int64:
                np.testing.assert_array_equal(value, expected[name])
            else:
                np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)


GATHER = """
module attributes {mpk.mesh = {tp = 2}} {
  func.func @step() {
    %w = mpk_task.buffer weight "w" shard <dim 0 of 2> : memref<4xf32>
    %y = mpk_task.buffer output "y" : memref<4xf32>
    mpk_task.grid @copy [1] reads(%w : memref<4xf32>) writes(%y : memref<4xf32>)
        boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [4]>,
               #mpk_task.region<affine_map<(d0) -> (0)>, [4]>] {
    ^bb0(%0 : tensor<4xf32>):
      mpk_task.yield %0 : tensor<4xf32>
    }
    func.return
  }
}
"""


def test_what_should_be_the_same_on_all_ranks_is_compared(parse) -> None:
    weights = {"w": np.arange(8, dtype=np.float32)}
    with pytest.raises(MpkirError, match="rank 0 has another 'y' than a rank that should have its"):
        task_level.run_step(parse(GATHER), weights, {}, {}, 0)
    text = GATHER.replace('"y" :', '"y" shard <dim 0 of 2> :')
    outputs = task_level.run_step(parse(text), weights, {}, {}, 0)
    np.testing.assert_array_equal(outputs["y"], weights["w"])
