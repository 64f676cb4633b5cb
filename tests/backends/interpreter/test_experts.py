"""Kernels of mixtures of experts against PyTorch, with several rows and several slots a row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from mpkir.backends.interpreter import tensor_level
from mpkir.pipeline import context

_TOPK = """
func.func @step() {
  %x = mpk_tensor.input "x" : tensor<3x9xf32>
  %v, %e = mpk_tensor.topk SCORES %x : tensor<3x9xf32> to tensor<3x4xf32>, tensor<3x4xi64>
  mpk_tensor.output "v", %v : tensor<3x4xf32>
  mpk_tensor.output "e", %e : tensor<3x4xi64>
  func.return
}
"""
_EXPERTS = """
func.func @step() {
  %x = mpk_tensor.input "x" : tensor<2x8xf32>
  %e = mpk_tensor.input "e" : tensor<6xi64>
  %c = mpk_tensor.input "c" : tensor<6xf32>
  %w = mpk_tensor.weight "w" : tensor<5x7x8xf32>
  %v = mpk_tensor.weight "v" : tensor<5x9x3xf32>
  %h = mpk_tensor.expert_linear %x, [%w, %w] rows [0, 4] of %e epilogue {
  ^bb0(%a : f32, %b : f32):
    %p = arith.mulf %a, %b : f32
    mpk_tensor.yield %p : f32
  } : tensor<2x8xf32>, [tensor<5x7x8xf32>, tensor<5x7x8xf32>], tensor<6xi64> to tensor<6x3xf32>
  %y = mpk_tensor.expert_linear %h, [%v] rows [0] of %e scaled %c : tensor<6xf32>
    : tensor<6x3xf32>, [tensor<5x9x3xf32>], tensor<6xi64> to tensor<2x9xf32>
  mpk_tensor.output "y", %y : tensor<2x9xf32>
  func.return
}
"""


def parse(text: str) -> ModuleOp:
    module = Parser(context(), text).parse_module()
    module.verify()
    return module


@pytest.mark.parametrize("scores", ["raw", "softmax", "softmax_of_chosen"])
def test_topk(scores: str) -> None:
    x = torch.randn(3, 9)
    values, indices = x.topk(4)
    if scores == "softmax":
        values = x.softmax(-1).gather(-1, indices)
    elif scores == "softmax_of_chosen":
        values = values.softmax(-1)
    module = parse(_TOPK.replace("SCORES", scores))
    outputs = tensor_level.run_step(module, {}, {}, {"x": x.numpy()}, 0)
    np.testing.assert_array_equal(outputs["e"], indices.numpy())
    np.testing.assert_allclose(outputs["v"], values.numpy(), rtol=1e-6)


def test_topk_of_equals_takes_the_first() -> None:
    x = np.zeros((3, 9), np.float32)
    x[0, [2, 5]] = 1
    x[1, 7] = np.nan
    outputs = tensor_level.run_step(parse(_TOPK.replace("SCORES", "raw")), {}, {}, {"x": x}, 0)
    assert outputs["e"].tolist() == [[2, 5, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]]


def test_expert_linear_shares_rows_and_sums_slots() -> None:
    x, w, v = torch.randn(2, 8), torch.randn(5, 7, 8), torch.randn(5, 9, 3)
    e, c = torch.tensor([4, 0, 2, 2, 3, 4]), torch.randn(6)
    sums = torch.einsum("snk,sk->sn", w[e], x.repeat_interleave(3, 0))
    h = sums[:, :3] * sums[:, 4:]
    y = (torch.einsum("snk,sk->sn", v[e], h) * c[:, None]).reshape(2, 3, 9).sum(1)
    inputs = {"x": x.numpy(), "e": e.numpy(), "c": c.numpy()}
    weights = {"w": w.numpy(), "v": v.numpy()}
    outputs = tensor_level.run_step(parse(_EXPERTS), weights, {}, inputs, 0)
    np.testing.assert_allclose(outputs["y"], y.numpy(), rtol=1e-4, atol=1e-5)
