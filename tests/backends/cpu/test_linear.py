"""Linear layers: every weight type, ragged tiles, several rows, prologue and epilogue."""

from __future__ import annotations

import pytest
import torch

from mpkir.errors import MpkirError  # noqa: F401

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "n", "k"), [(1, 64, 96), (1, 37, 50), (5, 19, 33), (8, 40, 64)])
def test_plain(start, dtype: str, rows: int, n: int, k: int):
    step = start(f"""
      %x = mpk_tensor.input "x" : tensor<1x{rows}x{k}x{dtype}>
      %w = mpk_tensor.weight "w" : tensor<{n}x{k}x{dtype}>
      %y = mpk_tensor.linear %x, [%w] : tensor<1x{rows}x{k}x{dtype}>, [tensor<{n}x{k}x{dtype}>] to tensor<1x{rows}x{n}xf32>
      mpk_tensor.output "y", %y : tensor<1x{rows}x{n}xf32>""", max_rows=8)
    x = torch.randn(1, rows, k).to(DTYPES[dtype])
    w = torch.randn(n, k).to(DTYPES[dtype])
    torch.testing.assert_close(step(x=x, w=w)["y"], x.float() @ w.float().T, rtol=1e-5, atol=1e-4)
