"""Elementwise regions, copies under other indices, constants."""

from __future__ import annotations

import torch


def test_elementwise_broadcasts(start):
    step = start(
        """
      %a = mpk_tensor.input "a" : tensor<3x1x50xbf16>
      %b = mpk_tensor.input "b" : tensor<4x1xf32>
      %c = mpk_tensor.input "c" : tensor<50xi64>
      %y = mpk_tensor.elementwise %a, %b, %c {
      ^bb0(%0 : bf16, %1 : f32, %2 : i64):
        %3 = arith.extf %0 : bf16 to f32
        %4 = arith.mulf %3, %1 : f32
        %5 = arith.sitofp %2 : i64 to f32
        %6 = arith.addf %4, %5 : f32
        mpk_tensor.yield %6 : f32
      } : (tensor<3x1x50xbf16>, tensor<4x1xf32>, tensor<50xi64>) -> tensor<3x4x50xf32>
      mpk_tensor.output "y", %y : tensor<3x4x50xf32>""",
        workers=2,
        min_elements=16,
    )
    a, b = torch.randn(3, 1, 50).bfloat16(), torch.randn(4, 1)
    c = torch.randint(-9, 9, (50,))
    torch.testing.assert_close(step(a=a, b=b, c=c)["y"], a.float() * b + c)


def test_scalars(start):
    """Tensors of rank 0 have one element."""
    step = start("""
      %a = mpk_tensor.input "a" : tensor<f32>
      %b = mpk_tensor.input "b" : tensor<5xf32>
      %s = mpk_tensor.elementwise %a {
      ^bb0(%0 : f32):
        %1 = arith.addf %0, %0 : f32
        mpk_tensor.yield %1 : f32
      } : (tensor<f32>) -> tensor<f32>
      %y = mpk_tensor.elementwise %s, %b {
      ^bb0(%0 : f32, %1 : f32):
        %2 = arith.subf %0, %1 : f32
        mpk_tensor.yield %2 : f32
      } : (tensor<f32>, tensor<5xf32>) -> tensor<5xf32>
      mpk_tensor.output "s", %s : tensor<f32>
      mpk_tensor.output "y", %y : tensor<5xf32>""")
    b = torch.randn(5)
    got = step(a=torch.tensor(1.5), b=b)
    assert got["s"] == 3
    torch.testing.assert_close(got["y"], 3 - b)


def test_copies(start):
    step = start("""
      %x = mpk_tensor.input "x" : tensor<3x4x6xf32>
      %z = mpk_tensor.input "z" : tensor<3x2x6xf32>
      %row = mpk_tensor.input "row" : tensor<4x1xi64>
      %t = mpk_tensor.transpose %x [2, 0, 1] : tensor<3x4x6xf32> to tensor<6x3x4xf32>
      %s = mpk_tensor.slice %x dim 2 start 1 step 2 : tensor<3x4x6xf32> to tensor<3x4x3xf32>
      %s1 = mpk_tensor.slice %x dim 1 start 2 : tensor<3x4x6xf32> to tensor<3x2x6xf32>
      %b = mpk_tensor.broadcast %row : tensor<4x1xi64> to tensor<2x4x3xi64>
      %c = mpk_tensor.concat %x, %z dim 1 : (tensor<3x4x6xf32>, tensor<3x2x6xf32>) ->
        tensor<3x6x6xf32>
      %r = mpk_tensor.reshape %x : tensor<3x4x6xf32> to tensor<2x36xf32>
      %f = mpk_tensor.full -2.5 : f32 : tensor<2x3xf32>
      %m = mpk_tensor.full -9223372036854775808 : i64 : tensor<2xi64>
      %i = mpk_tensor.iota start 5 step 3 : tensor<4xi64>
      %if = mpk_tensor.iota : tensor<4xf32>
      mpk_tensor.output "t", %t : tensor<6x3x4xf32>
      mpk_tensor.output "s", %s : tensor<3x4x3xf32>
      mpk_tensor.output "s1", %s1 : tensor<3x2x6xf32>
      mpk_tensor.output "b", %b : tensor<2x4x3xi64>
      mpk_tensor.output "c", %c : tensor<3x6x6xf32>
      mpk_tensor.output "r", %r : tensor<2x36xf32>
      mpk_tensor.output "f", %f : tensor<2x3xf32>
      mpk_tensor.output "m", %m : tensor<2xi64>
      mpk_tensor.output "i", %i : tensor<4xi64>
      mpk_tensor.output "if", %if : tensor<4xf32>""")
    x, z, row = torch.randn(3, 4, 6), torch.randn(3, 2, 6), torch.arange(4)[:, None]
    got = step(x=x, z=z, row=row)
    assert torch.equal(got["t"], x.permute(2, 0, 1))
    assert torch.equal(got["s"], x[..., 1::2])
    assert torch.equal(got["s1"], x[:, 2:])
    assert torch.equal(got["b"], row.expand(2, 4, 3))
    assert torch.equal(got["c"], torch.cat([x, z], 1))
    assert torch.equal(got["r"], x.reshape(2, 36))
    assert torch.equal(got["f"], torch.full((2, 3), -2.5))
    assert torch.equal(got["m"], torch.full((2,), -(2**63)))
    assert torch.equal(got["i"], torch.tensor([5, 8, 11, 14]))
    assert torch.equal(got["if"], torch.arange(4.0))


def test_narrow_floats_round_to_nearest_even(start):
    """Every float16 and bfloat16 goes through fp32 and back unchanged; ties go to even."""
    step = start("""
      %x = mpk_tensor.input "x" : tensor<65536xf32>
      %b = mpk_tensor.elementwise %x {
      ^bb0(%0 : f32):
        %1 = arith.truncf %0 : f32 to bf16
        mpk_tensor.yield %1 : bf16
      } : (tensor<65536xf32>) -> tensor<65536xbf16>
      %h = mpk_tensor.elementwise %x {
      ^bb0(%0 : f32):
        %1 = arith.truncf %0 : f32 to f16
        mpk_tensor.yield %1 : f16
      } : (tensor<65536xf32>) -> tensor<65536xf16>
      %w = mpk_tensor.elementwise %h {
      ^bb0(%0 : f16):
        %1 = arith.extf %0 : f16 to f32
        mpk_tensor.yield %1 : f32
      } : (tensor<65536xf16>) -> tensor<65536xf32>
      mpk_tensor.output "b", %b : tensor<65536xbf16>
      mpk_tensor.output "h", %h : tensor<65536xf16>
      mpk_tensor.output "w", %w : tensor<65536xf32>""")
    bits = torch.arange(65536, dtype=torch.int32).to(torch.int16)
    tie = torch.arange(65536) * 65536 + 0x8000
    for x in (
        bits.view(torch.float16).float(),
        bits.view(torch.bfloat16).float(),
        tie.to(torch.int32).view(torch.float32),
        (bits.view(torch.float16).float() * (1 + 2**-11)),
    ):
        got = step(x=x)
        torch.testing.assert_close(got["b"], x.bfloat16(), rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(got["h"], x.half(), rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(got["w"], x.half().float(), rtol=0, atol=0, equal_nan=True)
