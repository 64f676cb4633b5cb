"""What is folded, by option; and that a folded chain rounds once."""

from __future__ import annotations

from collections import Counter

import pytest

from mpkir.dialects import tensor

BLOCK = """
func.func @step() {
  %x = mpk_tensor.input "x" : tensor<2x24xbf16>
  %g = mpk_tensor.weight "g" : tensor<24xbf16>
  %b = mpk_tensor.weight "b" : tensor<24xbf16>
  %u = mpk_tensor.weight "u" : tensor<40x24xbf16>
  %d = mpk_tensor.weight "d" : tensor<24x40xbf16>
  %n = mpk_tensor.layer_norm %x, %g, %b eps 1.0e-5
    : (tensor<2x24xbf16>, tensor<24xbf16>, tensor<24xbf16>) -> tensor<2x24xbf16>
  %h = mpk_tensor.linear %n, [%u] : tensor<2x24xbf16>, [tensor<40x24xbf16>] to tensor<2x40xbf16>
  %t = mpk_tensor.elementwise %h {
  ^bb0(%0 : bf16):
    %1 = arith.extf %0 : bf16 to f32
    %2 = math.tanh %1 : f32
    %3 = arith.truncf %2 : f32 to bf16
    mpk_tensor.yield %3 : bf16
  } : (tensor<2x40xbf16>) -> tensor<2x40xbf16>
  %m = mpk_tensor.linear %t, [%d] : tensor<2x40xbf16>, [tensor<24x40xbf16>] to tensor<2x24xbf16>
  %r = mpk_tensor.elementwise %m, %x {
  ^bb0(%0 : bf16, %1 : bf16):
    %2 = arith.extf %0 : bf16 to f32
    %3 = arith.extf %1 : bf16 to f32
    %4 = arith.addf %2, %3 : f32
    %5 = arith.truncf %4 : f32 to bf16
    mpk_tensor.yield %5 : bf16
  } : (tensor<2x24xbf16>, tensor<2x24xbf16>) -> tensor<2x24xbf16>
  %s = mpk_tensor.elementwise %r {
  ^bb0(%0 : bf16):
    %1 = arith.negf %0 : bf16
    mpk_tensor.yield %1 : bf16
  } : (tensor<2x24xbf16>) -> tensor<2x24xbf16>
  mpk_tensor.output "s", %s : tensor<2x24xbf16>
  func.return
}
"""


def operators(module) -> Counter[str]:
    """How many operators of each kind stand in the step itself."""
    (step,) = module.body.block.ops
    names = (op.name.removeprefix("mpk_tensor.") for op in step.body.block.ops)
    kinds = ("linear", "elementwise", "layer_norm")
    return Counter(name for name in names if name in kinds)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {"linear": 2}),
        ("{epilogues=false}", {"linear": 2, "elementwise": 2}),
        ("{prologues=false}", {"linear": 2, "layer_norm": 1}),
        ("{epilogues=false pointwise=false}", {"linear": 2, "elementwise": 3}),
        (
            "{epilogues=false pointwise=false prologues=false}",
            {"linear": 2, "elementwise": 3, "layer_norm": 1},
        ),
    ],
)
def test_each_kind_of_fusion_has_its_switch(run, assert_same_numbers, options, expected) -> None:
    fused = run(BLOCK, f"mpk-fuse-operators{options}")
    assert operators(fused) == expected
    assert_same_numbers(run(BLOCK, ""), fused, 0.05)


def test_a_second_run_changes_nothing(run) -> None:
    once = run(BLOCK, "mpk-fuse-operators")
    twice = run(BLOCK, "mpk-fuse-operators,mpk-fuse-operators")
    assert str(once) == str(twice)


def test_a_fused_operator_keeps_its_place_in_the_model(run) -> None:
    """The location of the product, by which its family is named."""
    text = BLOCK.replace(
        "[tensor<24x40xbf16>] to tensor<2x24xbf16>",
        '[tensor<24x40xbf16>] to tensor<2x24xbf16> loc("mlp.down")',
    )
    fused = run(text, "mpk-fuse-operators")
    linears = [op for op in fused.walk() if isinstance(op, tensor.LinearOp)]
    assert "mlp.down" in str(linears[-1].location)


def test_a_value_used_twice_by_one_operator_is_not_folded(run, assert_same_numbers) -> None:
    text = """
func.func @step() {
  %x = mpk_tensor.input "x" : tensor<1x8xf32>
  %w = mpk_tensor.weight "w" : tensor<8x8xf32>
  %y = mpk_tensor.linear %x, [%w] : tensor<1x8xf32>, [tensor<8x8xf32>] to tensor<1x8xf32>
  %s = mpk_tensor.elementwise %y, %y {
  ^bb0(%0 : f32, %1 : f32):
    %2 = arith.mulf %0, %1 : f32
    mpk_tensor.yield %2 : f32
  } : (tensor<1x8xf32>, tensor<1x8xf32>) -> tensor<1x8xf32>
  mpk_tensor.output "s", %s : tensor<1x8xf32>
  func.return
}
"""
    fused = run(text, "mpk-fuse-operators")
    assert_same_numbers(run(text, ""), fused)
