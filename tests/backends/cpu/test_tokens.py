"""The token sequence: embedding, argmax, appending, stopping, over several steps of one launch."""

from __future__ import annotations

import pytest
import torch


def test_embedding_and_argmax(start):
    step = start("""
      %t = mpk_tensor.weight "t" : tensor<20x8xbf16>
      %ids = mpk_tensor.input "ids" : tensor<2x3xi64>
      %e = mpk_tensor.embedding %t, %ids : (tensor<20x8xbf16>, tensor<2x3xi64>) ->
        tensor<2x3x8xbf16>
      %x = mpk_tensor.input "x" : tensor<2x3x700xf32>
      %a = mpk_tensor.argmax %x : tensor<2x3x700xf32> to tensor<2x3xi64>
      %v, %i = mpk_tensor.argmax_partial chunk 128 %x : (tensor<2x3x700xf32>) ->
        (tensor<2x3x6xf32>, tensor<2x3x6xi64>)
      %m = mpk_tensor.argmax_merge %v, %i : tensor<2x3x6xf32>, tensor<2x3x6xi64> to tensor<2x3xi64>
      mpk_tensor.output "e", %e : tensor<2x3x8xbf16>
      mpk_tensor.output "a", %a : tensor<2x3xi64>
      mpk_tensor.output "m", %m : tensor<2x3xi64>""")
    table, ids = torch.randn(20, 8).bfloat16(), torch.tensor([[0, 19, 3], [7, 7, 1]])
    x = torch.randn(2, 3, 700)
    x[0, 1, [5, 600]] = 9.0  # the lowest of equals
    x[0, 2, [300, 650]] = float("nan")  # counts as the largest
    x[1, 0] = float("-inf")
    x[1, 1, 699] = float("inf")
    got = step(t=table, ids=ids, x=x)
    assert torch.equal(got["e"], table[ids])
    expected = x.argmax(-1)
    assert expected[0, 1] == 5
    assert torch.equal(got["a"], expected)
    assert torch.equal(got["m"], expected)
    got = step(ids=torch.tensor([[-5, 20, 3], [99, 0, 1]]))
    assert torch.equal(got["e"][0, 0], table[0])
    assert torch.equal(got["e"][0, 1], table[19])


@pytest.mark.parametrize("max_rows", [8, 24])
@pytest.mark.parametrize("element", ["f32", "bf16"])
def test_argmax_of_what_a_linear_keeps(start, max_rows: int, element: str):
    step = start(
        f"""
      %x = mpk_tensor.input "x" : tensor<2x3x8xbf16>
      %w = mpk_tensor.weight "w" : tensor<80x8xbf16>
      %y, %v, %i = mpk_tensor.linear %x, [%w] : tensor<2x3x8xbf16>, [tensor<80x8xbf16>] to
        tensor<2x3x80x{element}> best of 8 to tensor<2x3x10xf32>, tensor<2x3x10xi64>
      %v2, %i2 = mpk_tensor.argmax_join chunk 4 part 8 %v, %i :
        (tensor<2x3x10xf32>, tensor<2x3x10xi64>) -> (tensor<2x3x3xf32>, tensor<2x3x3xi64>)
      %m = mpk_tensor.argmax_merge %v2, %i2 : tensor<2x3x3xf32>, tensor<2x3x3xi64> to
        tensor<2x3xi64>
      %n = mpk_tensor.argmax_merge %v, %i : tensor<2x3x10xf32>, tensor<2x3x10xi64> to
        tensor<2x3xi64> parts [1, 8]
      mpk_tensor.output "y", %y : tensor<2x3x80x{element}>
      mpk_tensor.output "m", %m : tensor<2x3xi64>
      mpk_tensor.output "n", %n : tensor<2x3xi64>""",
        max_rows=max_rows,
    )
    x, w = torch.randn(2, 3, 8).bfloat16(), torch.randn(80, 8).bfloat16()
    w[[1, 70, 79]] = 9.0  # the lowest of equals
    x[0, 0] = 1
    x[1, 2] = 0
    got = step(x=x, w=w)
    expected = got["y"].float().argmax(-1)
    assert expected[0, 0] == 1
    assert torch.equal(got["m"], expected)
    assert torch.equal(got["n"], expected)
    w[[37, 52]] = float("nan")  # counts as the largest
    got = step(w=w)
    assert (got["m"] == 37).all()
    assert (got["n"] == 37).all()


def test_generation_in_one_launch(start, counting):
    step = start(counting)
    step.buffers["t"].copy_(torch.eye(40).roll(1, 1))
    tokens = step.buffers["tokens"]
    prompt = torch.tensor([4, 12, 8])  # a stop token in the prompt does not stop
    tokens[:3] = prompt
    assert step.program.run(0, 30) == 6
    assert tokens[:8].tolist() == [4, 12, 8, 9, 10, 11, 12, -1]
    assert step.program.run(6, 4) == 4
    assert tokens[6:12].tolist() == [12, 13, 14, 15, 16, -1]
    tokens[10] = 28
    assert step.program.run(10, 22) == 2
    assert tokens[10:14].tolist() == [28, 29, 30, -1]


def test_last_place_of_the_sequence(start, counting):
    step = start(counting, workers=1)
    step.buffers["t"].copy_(torch.eye(40).roll(1, 1))
    tokens = step.buffers["tokens"]
    tokens[31] = 3
    assert step.program.run(31, 1) == 1
    assert tokens[32] == 4
    assert step.program.run(32, 1) == 1  # nowhere to write, nothing written


def test_read_and_append_as_operators(start):
    step = start(
        """
      %s = mpk_tensor.state "tokens" initial -1 : tensor<9xi64>
      %p = mpk_tensor.position : tensor<2xi64>
      %r = mpk_tensor.sequence_read %s at %p : (tensor<9xi64>, tensor<2xi64>) -> tensor<1x2xi64>
      %k = mpk_tensor.input "k" : tensor<1x2xi64>
      %n = mpk_tensor.sequence_append %s, %k at %p stop [7] : (tensor<9xi64>, tensor<1x2xi64>,
        tensor<2xi64>) -> tensor<9xi64>
      mpk_tensor.output "r", %r : tensor<1x2xi64>
      mpk_tensor.store_state "tokens", %n : tensor<9xi64>""",
        tokens=2,
    )
    step.buffers["tokens"][:5] = torch.tensor([1, 2, 3, 4, -1])
    got = step(2, k=torch.tensor([[5, 6]]))
    assert got["r"].tolist() == [[3, 4]]
    assert got["tokens"].tolist() == [1, 2, 3, 4, 6, -1, -1, -1, -1]


def test_read_and_append_of_several_sequences(start):
    step = start(
        """
      %s = mpk_tensor.state "tokens" initial -1 : tensor<3x9xi64>
      %p = mpk_tensor.position : tensor<1xi64>
      %r = mpk_tensor.sequence_read %s at %p : (tensor<3x9xi64>, tensor<1xi64>) -> tensor<3x1xi64>
      %k = mpk_tensor.input "k" : tensor<3x1xi64>
      %n = mpk_tensor.sequence_append %s, %k at %p stop [7] : (tensor<3x9xi64>, tensor<3x1xi64>,
        tensor<1xi64>) -> tensor<3x9xi64>
      mpk_tensor.output "r", %r : tensor<3x1xi64>
      mpk_tensor.store_state "tokens", %n : tensor<3x9xi64>"""
    )
    tokens = step.buffers["tokens"]
    tokens[:, :3] = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, -2]])
    tokens[0, 3] = 7
    got = step(2, k=torch.tensor([[5], [7], [9]]))
    assert got["r"].tolist() == [[3], [6], [-2]]
    assert tokens[:, 3:6].tolist() == [[7, -1, -1], [7, -2, -1], [9, -1, -1]]
    tokens[2, 3:5] = -2
    step.buffers["k"].copy_(torch.tensor([[7], [8], [8]]))
    assert step.program.run(3, 4) == 1, "the last sequence to end stops the launch"
    assert tokens[:, 3:7].tolist() == [[7, 7, -2, -1], [7, -2, -2, -1], [-2, -2, -2, -1]]
