"""Sizes that no tile divides, down the whole pipeline: nothing beyond a buffer's end is counted."""

from __future__ import annotations

import numpy as np
import pytest

from mpkir.backends.interpreter import event_level, memory, tensor_level
from mpkir.machine import machine_named
from mpkir.pipeline import lower

ARGMAX = """
func.func @step() {{
  %pos = mpk_tensor.position : tensor<1xi64>
  %tokens = mpk_tensor.state "tokens" initial -1 : tensor<9xi64>
  %logits = mpk_tensor.input "logits" : tensor<1x{0}xf32>
  %next = mpk_tensor.argmax %logits : tensor<1x{0}xf32> to tensor<1xi64>
  %after = mpk_tensor.sequence_append %tokens, %next at %pos
    : (tensor<9xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<9xi64>
  mpk_tensor.store_state "tokens", %after : tensor<9xi64>
  func.return
}}
"""


@pytest.mark.parametrize("vocabulary", [7, 250, 251, 256])
@pytest.mark.parametrize("target", ["cpu", "h100"])
def test_argmax_of_negative_logits(parse, target: str, vocabulary: int) -> None:
    module = parse(ARGMAX.format(vocabulary))
    lower(module, machine_named(target, workers=5))
    logits = -1 - np.random.default_rng(0).random((1, vocabulary), np.float32)
    states = memory.initial_states(module)
    event_level.run_steps(module, {}, states, {"logits": logits}, 0)
    assert states["tokens"][1] == np.argmax(logits)


LAYERS = """
func.func @step() {{
  %x = mpk_tensor.input "x" : tensor<1x{k}xf32>
  %w = mpk_tensor.weight "w" : tensor<{n}x{k}xf32>
  %y = mpk_tensor.linear %x, [%w] : tensor<1x{k}xf32>, [tensor<{n}x{k}xf32>] to tensor<1x{n}xf32>
  %s = mpk_tensor.softmax %y : tensor<1x{n}xf32> to tensor<1x{n}xf32>
  %o = mpk_tensor.transpose %s [1, 0] : tensor<1x{n}xf32> to tensor<{n}x1xf32>
  %p = mpk_tensor.matmul %o, %s : (tensor<{n}x1xf32>, tensor<1x{n}xf32>) -> tensor<{n}x{n}xf32>
  %r = mpk_tensor.reduce max %p dims [0] : tensor<{n}x{n}xf32> to tensor<1x{n}xf32>
  %m = mpk_tensor.reduce min %p dims [0, 1] : tensor<{n}x{n}xf32> to tensor<1x1xf32>
  %e = mpk_tensor.elementwise %p, %m, %r {{
  ^bb0(%0 : f32, %1 : f32, %2 : f32):
    %3 = arith.divf %1, %0 : f32
    %4 = arith.addf %3, %2 : f32
    mpk_tensor.yield %4 : f32
  }} : (tensor<{n}x{n}xf32>, tensor<1x1xf32>, tensor<1x{n}xf32>) -> tensor<{n}x{n}xf32>
  mpk_tensor.output "e", %e : tensor<{n}x{n}xf32>
  func.return
}}
"""


@pytest.mark.parametrize("n", [1, 5, 37])
@pytest.mark.parametrize("k", [1, 13])
@pytest.mark.parametrize("workers", [2, 7])
def test_products_and_reductions(parse, random_weights, workers: int, k: int, n: int) -> None:
    module = parse(LAYERS.format(n=n, k=k))
    weights = random_weights(module)
    inputs = {"x": np.random.default_rng(1).random((1, k), np.float32)}
    expected = tensor_level.run_step(module, weights, {}, inputs, 0)["e"]
    lower(module, machine_named("h100", workers=workers))
    run = event_level.run_steps(module, weights, {}, inputs, 0, steps=2)
    np.testing.assert_allclose(run.outputs["e"], expected, rtol=1e-5)
