"""Linear layers: every weight type, ragged tiles, several rows, prologues and epilogues."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "n", "k"), [(1, 64, 96), (1, 37, 50), (5, 19, 33), (8, 40, 64)])
def test_plain(start, dtype: str, rows: int, n: int, k: int):
    x_type, w_type = f"tensor<1x{rows}x{k}x{dtype}>", f"tensor<{n}x{k}x{dtype}>"
    y_type = f"tensor<1x{rows}x{n}xf32>"
    step = start(
        f"""
        %x = mpk_tensor.input "x" : {x_type}
        %w = mpk_tensor.weight "w" : {w_type}
        %y = mpk_tensor.linear %x, [%w] : {x_type}, [{w_type}] to {y_type}
        mpk_tensor.output "y", %y : {y_type}""",
        max_rows=8,
    )
    x = torch.randn(1, rows, k).to(DTYPES[dtype])
    w = torch.randn(n, k).to(DTYPES[dtype])
    torch.testing.assert_close(step(x=x, w=w)["y"], x.float() @ w.float().T, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 3])
def test_gated_mlp(start, rows: int):
    """A norm before, two weights, silu(a) * b after; then a product with bias and residual."""
    x_type = f"tensor<1x{rows}x96xbf16>"
    step = start(
        f"""
        %x = mpk_tensor.input "x" : {x_type}
        %norm = mpk_tensor.weight "norm" : tensor<96xbf16>
        %gate = mpk_tensor.weight "gate" : tensor<130x96xbf16>
        %up = mpk_tensor.weight "up" : tensor<130x96xbf16>
        %down = mpk_tensor.weight "down" : tensor<96x130xbf16>
        %bias = mpk_tensor.weight "bias" : tensor<96xbf16>
        %h = mpk_tensor.linear %x, [%gate, %up] prologue {{
        ^bb0(%0 : {x_type}, %1 : tensor<96xbf16>):
          %2 = mpk_tensor.rms_norm %0, %1 eps 1.0e-5 : ({x_type}, tensor<96xbf16>) -> {x_type}
          mpk_tensor.yield %2 : {x_type}
        }} with %norm : tensor<96xbf16> epilogue {{
        ^bb0(%a : f32, %b : f32):
          %one = arith.constant 1.0 : f32
          %m = arith.negf %a : f32
          %e = math.exp %m : f32
          %s = arith.addf %e, %one : f32
          %q = arith.divf %a, %s : f32
          %r = arith.mulf %q, %b : f32
          %t = arith.truncf %r : f32 to bf16
          mpk_tensor.yield %t : bf16
        }} : {x_type}, [tensor<130x96xbf16>, tensor<130x96xbf16>] to tensor<1x{rows}x130xbf16>
        %y = mpk_tensor.linear %h, [%down] epilogue {{
        ^bb0(%a : f32, %b : bf16, %c : bf16):
          %b1 = arith.extf %b : bf16 to f32
          %c1 = arith.extf %c : bf16 to f32
          %s = arith.addf %a, %b1 : f32
          %t = arith.addf %s, %c1 : f32
          %u = arith.truncf %t : f32 to bf16
          mpk_tensor.yield %u : bf16
        }} with %bias, %x : tensor<96xbf16>, {x_type} : tensor<1x{rows}x130xbf16>,
          [tensor<96x130xbf16>] to {x_type}
        mpk_tensor.output "h", %h : tensor<1x{rows}x130xbf16>
        mpk_tensor.output "y", %y : {x_type}""",
        max_rows=16,
    )
    shapes = {"norm": (96,), "gate": (130, 96), "up": (130, 96), "down": (96, 130), "bias": (96,)}
    w = {name: (torch.randn(shape) * 0.3).bfloat16() for name, shape in shapes.items()}
    x = torch.randn(1, rows, 96).bfloat16()
    got = step(x=x, **w)
    normed = F.rms_norm(x.float(), (96,), w["norm"].float(), 1e-5)
    h = F.silu(normed @ w["gate"].float().T) * (normed @ w["up"].float().T)
    torch.testing.assert_close(got["h"].float(), h, rtol=8e-3, atol=1e-3)
    y = got["h"].float() @ w["down"].float().T + w["bias"].float() + x.float()
    torch.testing.assert_close(got["y"].float(), y, rtol=8e-3, atol=1e-3)


def test_prologue_of_several_operators(start):
    """A layer norm, then an elementwise op with an operand of its own, on several rows."""
    x_type = "tensor<2x3x40xf32>"
    step = start(
        f"""
        %x = mpk_tensor.input "x" : {x_type}
        %g = mpk_tensor.weight "g" : tensor<40xf32>
        %b = mpk_tensor.weight "b" : tensor<40xf32>
        %s = mpk_tensor.weight "s" : tensor<3x1xf32>
        %w = mpk_tensor.weight "w" : tensor<21x40xbf16>
        %y = mpk_tensor.linear %x, [%w] prologue {{
        ^bb0(%0 : {x_type}, %1 : tensor<40xf32>, %2 : tensor<40xf32>, %3 : tensor<3x1xf32>):
          %4 = mpk_tensor.layer_norm %0, %1, %2 eps 1.0e-6 : ({x_type}, tensor<40xf32>,
            tensor<40xf32>) -> {x_type}
          %5 = mpk_tensor.elementwise %4, %3 {{
          ^bb0(%a : f32, %c : f32):
            %m = arith.mulf %a, %c : f32
            mpk_tensor.yield %m : f32
          }} : ({x_type}, tensor<3x1xf32>) -> {x_type}
          mpk_tensor.yield %5 : {x_type}
        }} with %g, %b, %s : tensor<40xf32>, tensor<40xf32>, tensor<3x1xf32> : {x_type},
          [tensor<21x40xbf16>] to tensor<2x3x21xf32>
        mpk_tensor.output "y", %y : tensor<2x3x21xf32>"""
    )
    x, g, b, s = torch.randn(2, 3, 40), torch.randn(40), torch.randn(40), torch.randn(3, 1)
    w = torch.randn(21, 40).bfloat16()
    for _ in range(2):  # the second step must not reuse what the first prepared
        x = x + 1.5 * torch.randn(2, 3, 40)
        expected = (F.layer_norm(x, (40,), g, b, 1e-6) * s) @ w.float().T
        got = step(x=x, g=g, b=b, s=s, w=w)["y"]
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)


def test_infinities_and_nans_reach_the_result(start):
    step = start("""
        %x = mpk_tensor.input "x" : tensor<1x64xbf16>
        %w = mpk_tensor.weight "w" : tensor<3x64xbf16>
        %y = mpk_tensor.linear %x, [%w] : tensor<1x64xbf16>, [tensor<3x64xbf16>] to tensor<1x3xbf16>
        mpk_tensor.output "y", %y : tensor<1x3xbf16>""")
    x, w = torch.ones(1, 64).bfloat16(), torch.ones(3, 64).bfloat16()
    w[0, 5], w[1, 7] = float("inf"), float("nan")
    y = step(x=x, w=w)["y"][0]
    assert y[0] == float("inf")
    assert y[1].isnan()
    assert y[2] == 64
