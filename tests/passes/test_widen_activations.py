"""Which values keep fp32, and that they bring results nearer to the truth."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from xdsl.dialects.builtin import f32

from mpkir.backends.interpreter import tensor_level
from mpkir.dialects import tensor


def residual(type: str, layers: int = 12) -> str:
    """x = x + tanh(w @ x), many times."""
    lines = [
        f'  %w = mpk_tensor.weight "w" : tensor<16x16x{type}>',
        f'  %x0 = mpk_tensor.input "x" : tensor<1x16x{type}>',
    ]
    for i in range(layers):
        lines.append(f"""
  %y{i} = mpk_tensor.linear %x{i}, [%w]
    : tensor<1x16x{type}>, [tensor<16x16x{type}>] to tensor<1x16x{type}>
  %x{i + 1} = mpk_tensor.elementwise %x{i}, %y{i} {{
  ^bb0(%a : {type}, %b : {type}):
    %1 = arith.extf %a : {type} to f32
    %2 = arith.extf %b : {type} to f32
    %3 = math.tanh %2 : f32
    %4 = arith.addf %1, %3 : f32
    %5 = arith.truncf %4 : f32 to {type}
    mpk_tensor.yield %5 : {type}
  }} : (tensor<1x16x{type}>, tensor<1x16x{type}>) -> tensor<1x16x{type}>""")
    lines.append(f'  mpk_tensor.output "x", %x{layers} : tensor<1x16x{type}>')
    return "func.func @step() {\n" + "\n".join(lines) + "\n  func.return\n}\n"


def wide_values(module) -> int:
    (step,) = module.body.block.ops
    ops = [
        op for op in step.body.block.ops if isinstance(op, tensor.LinearOp | tensor.ElementwiseOp)
    ]
    return sum(tensor.element_type_of(op.result) == f32 for op in ops)


@pytest.mark.parametrize("type", ["bf16", "f16"])
def test_a_residual_stream_is_nearer_to_the_truth(run, type: str) -> None:
    text = residual(type)
    narrow = run(text, "mpk-fuse-operators")
    wide = run(text, "mpk-fuse-operators,mpk-widen-activations")
    assert wide_values(narrow) == 0
    assert wide_values(wide) == 11, "all but the last, which leaves the program"
    rng = np.random.default_rng(0)
    errors = {"narrow": 0.0, "wide": 0.0}
    dtype = np.dtype(ml_dtypes.bfloat16 if type == "bf16" else np.float16)
    for _ in range(10):
        w = (rng.standard_normal((16, 16)) * 0.3).astype(dtype)
        x = rng.standard_normal((1, 16)).astype(dtype)
        truth = x.astype(np.float64)
        for _ in range(12):
            truth = truth + np.tanh(truth @ w.astype(np.float64).T)
        for name, module in (("narrow", narrow), ("wide", wide)):
            found = tensor_level.run_step(module, {"w": w}, {}, {"x": x}, 0)["x"]
            errors[name] += float(np.abs(found.astype(np.float64) - truth).mean())
    assert errors["wide"] < 0.7 * errors["narrow"]


@pytest.mark.parametrize("scope", ["none", "sums", "all"])
def test_scopes(run, assert_same_numbers, scope: str) -> None:
    text = residual("bf16", layers=3)
    found = run(text, f"mpk-widen-activations{{scope={scope}}}")
    assert wide_values(found) == {"none": 0, "sums": 5, "all": 5}[scope]
    assert_same_numbers(run(text, ""), found, 0.03)


def test_what_is_f32_stays_as_it_is(run) -> None:
    text = residual("bf16", layers=2).replace("bf16", "f32")
    for line in ("extf", "truncf"):
        assert line in text
    text = "\n".join(line for line in text.splitlines() if "extf" not in line)
    text = text.replace("math.tanh %2", "math.tanh %b").replace("addf %1", "addf %a")
    text = text.replace("    %5 = arith.truncf %4 : f32 to f32\n", "").replace(
        "yield %5", "yield %4"
    )
    assert str(run(text, "mpk-widen-activations{scope=all}")) == str(run(text, ""))
