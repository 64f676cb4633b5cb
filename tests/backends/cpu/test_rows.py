"""Norms, softmax, reductions, rotary embedding, products of activations, against PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

TORCH = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
TOLERANCE = {"bf16": 8e-3, "f16": 1e-3, "f32": 1e-5}


@pytest.mark.parametrize("e", TORCH)
@pytest.mark.parametrize(("rows", "n"), [(1, 576), (7, 33)])
def test_norms_and_softmax(start, e: str, rows: int, n: int):
    t, w = f"tensor<2x{rows}x{n}x{e}>", f"tensor<{n}x{e}>"
    step = start(
        f"""
      %x = mpk_tensor.input "x" : {t}
      %g = mpk_tensor.weight "g" : {w}
      %b = mpk_tensor.weight "b" : {w}
      %0 = mpk_tensor.rms_norm %x, %g eps 1.0e-5 : ({t}, {w}) -> {t}
      %1 = mpk_tensor.rms_norm %x eps 1.0e-5 : ({t}) -> {t}
      %2 = mpk_tensor.layer_norm %x, %g, %b eps 1.0e-5 : ({t}, {w}, {w}) -> {t}
      %3 = mpk_tensor.softmax %x : {t} to {t}
      mpk_tensor.output "rms", %0 : {t}
      mpk_tensor.output "plain", %1 : {t}
      mpk_tensor.output "layer", %2 : {t}
      mpk_tensor.output "softmax", %3 : {t}""",
        workers=3,
    )
    x = (3 * torch.randn(2, rows, n)).to(TORCH[e])
    g, b = torch.randn(n).to(TORCH[e]), torch.randn(n).to(TORCH[e])
    got = step(x=x, g=g, b=b)
    wide = x.float()
    expected = {
        "rms": F.rms_norm(wide, (n,), g.float(), 1e-5),
        "plain": F.rms_norm(wide, (n,), None, 1e-5),
        "layer": F.layer_norm(wide, (n,), g.float(), b.float(), 1e-5),
        "softmax": wide.softmax(-1),
    }
    for name, value in expected.items():
        torch.testing.assert_close(
            got[name].float(), value, rtol=TOLERANCE[e], atol=TOLERANCE[e], msg=name
        )


def test_softmax_of_infinities(start):
    t = "tensor<3x4xf32>"
    step = start(f"""
      %x = mpk_tensor.input "x" : {t}
      %y = mpk_tensor.softmax %x : {t} to {t}
      mpk_tensor.output "y", %y : {t}""")
    inf = float("inf")
    x = torch.tensor([[0, -inf, 0, -inf], [1, 2, float("nan"), 3], [200, -200, 100, 0]])
    torch.testing.assert_close(step(x=x)["y"], x.softmax(-1), equal_nan=True)


@pytest.mark.parametrize("dims", [[0], [1], [2], [0, 2], [1, 2], [0, 1, 2]])
@pytest.mark.parametrize("e", ["f32", "bf16", "i64"])
def test_reductions(start, dims: list[int], e: str):
    shape = [1 if d in dims else s for d, s in enumerate((3, 5, 37))]
    t, r = f"tensor<3x5x37x{e}>", f"tensor<{'x'.join(map(str, shape))}x{e}>"
    kinds = ["sum", "max", "min"] + (["mean"] if e != "i64" else [])
    body = f'%x = mpk_tensor.input "x" : {t}\n'
    for k in kinds:
        body += f"""
          %{k} = mpk_tensor.reduce {k} %x dims [{", ".join(map(str, dims))}] : {t} to {r}
          mpk_tensor.output "{k}", %{k} : {r}"""
    step = start(body)
    x = (100 * torch.randn(3, 5, 37)).to(TORCH.get(e, torch.int64))
    got = step(x=x)
    wide = x if e == "i64" else x.float()
    tolerance = 8e-3 if e == "bf16" else 1e-5
    for k, f in (("sum", wide.sum), ("max", wide.amax), ("min", wide.amin), ("mean", wide.mean)):
        if k in kinds:
            expected = f(dim=dims, keepdim=True)
            torch.testing.assert_close(
                got[k].to(expected.dtype), expected, rtol=tolerance, atol=1e-3, msg=k
            )


def test_largest_keeps_a_nan(start):
    step = start("""
      %x = mpk_tensor.input "x" : tensor<2x40xf32>
      %y = mpk_tensor.reduce max %x dims [1] : tensor<2x40xf32> to tensor<2x1xf32>
      mpk_tensor.output "y", %y : tensor<2x1xf32>""")
    x = torch.randn(2, 40)
    x[1, 17] = float("nan")
    y = step(x=x)["y"]
    assert y[0, 0] == x[0].max()
    assert y[1, 0].isnan()


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary(start, interleaved: bool):
    """6 of 10 dimensions turn, at positions that go far."""
    t = "tensor<2x3x4x10xf32>"
    word = "interleaved " if interleaved else ""
    step = start(
        f"""
      %x = mpk_tensor.input "x" : {t}
      %f = mpk_tensor.weight "f" : tensor<3xf32>
      %p = mpk_tensor.position : tensor<3xi64>
      %y = mpk_tensor.rotary {word}%x, %p, %f scale 0.5 : ({t}, tensor<3xi64>, tensor<3xf32>) -> {t}
      mpk_tensor.output "y", %y : {t}""",
        tokens=3,
    )
    x, f = torch.randn(2, 3, 4, 10), torch.tensor([1.0, 0.1, 0.003])
    for position in (0, 1, 4000):
        angle = (position + torch.arange(3))[:, None].float() * f
        c, s = angle.cos()[:, None], angle.sin()[:, None]
        a, b = (x[..., 0:6:2], x[..., 1:6:2]) if interleaved else (x[..., :3], x[..., 3:6])
        u, v = 0.5 * (a * c - b * s), 0.5 * (b * c + a * s)
        turned = torch.stack([u, v], -1).flatten(-2) if interleaved else torch.cat([u, v], -1)
        got = step(position, x=x, f=f)["y"]
        torch.testing.assert_close(got, torch.cat([turned, x[..., 6:]], -1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("lhs", "rhs"), [((5, 7), (7, 33)), ((2, 3, 4, 6), (2, 3, 6, 5)), ((4, 3, 6), (6, 9))]
)
def test_matmul(start, lhs: tuple[int, ...], rhs: tuple[int, ...]):
    a, b = torch.randn(lhs).bfloat16(), torch.randn(rhs).bfloat16()
    expected = a.float() @ b.float()
    types = [f"tensor<{'x'.join(map(str, s))}xbf16>" for s in (lhs, rhs, expected.shape)]
    step = start(f"""
      %a = mpk_tensor.input "a" : {types[0]}
      %b = mpk_tensor.input "b" : {types[1]}
      %y = mpk_tensor.matmul %a, %b : ({types[0]}, {types[1]}) -> {types[2]}
      mpk_tensor.output "y", %y : {types[2]}""")
    torch.testing.assert_close(step(a=a, b=b)["y"].float(), expected, rtol=8e-3, atol=1e-2)
