"""Linears that become one compute what each did, whatever stands beside them."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from mpkir.dialects import tensor
from mpkir.passes.join_linears import JoinLinearsPass
from mpkir.passes.partition_tiles import PartitionTilesPass
from mpkir.pipeline import context


@dataclass(frozen=True)
class Linear:
    """One of some linears on two tensors."""

    x: int
    rows: int
    bias: bool
    norm: bool
    wide: bool
    leaves: bool
    """Whether its result is an output, not only read by a sum."""

    @property
    def kind(self) -> tuple[object, ...] | None:
        """What it has in common with those it goes with; None if it goes with nobody."""
        if self.leaves or self.rows % 8:
            return None
        return self.x, self.bias, self.norm, self.wide

    def text(self, n: int, tokens: int) -> str:
        type = "f32" if self.wide else "bf16"
        source, weight = f"tensor<{tokens}x16xbf16>", f"tensor<{self.rows}x16xbf16>"
        result = f"tensor<{tokens}x{self.rows}x{type}>"
        prologue = f"""prologue {{
  ^bb0(%0 : {source}):
    %1 = mpk_tensor.rms_norm %0 eps 1.0e-5 : ({source}) -> tensor<{tokens}x16xf32>
    mpk_tensor.yield %1 : tensor<{tokens}x16xf32>
  }}"""
        rounding = "" if self.wide else "%4 = arith.truncf %3 : f32 to bf16"
        epilogue = f"""epilogue {{
  ^bb0(%0 : f32, %1 : bf16):
    %2 = arith.extf %1 : bf16 to f32
    %3 = arith.addf %0, %2 : f32
    {rounding}
    mpk_tensor.yield %{3 if self.wide else 4} : {type}
  }} with %b{n} : tensor<{self.rows}xbf16>"""
        return f"""
  %w{n} = mpk_tensor.weight "l.{n}.w" : {weight}
  %b{n} = mpk_tensor.weight "l.{n}.b" : tensor<{self.rows}xbf16>
  %y{n} = mpk_tensor.linear %x{self.x}, [%w{n}] {prologue if self.norm else ""}
    {epilogue if self.bias else ""} : {source}, [{weight}] to {result}
  %s{n} = mpk_tensor.reduce sum %y{n} dims [1] : {result} to tensor<{tokens}x1x{type}>
  mpk_tensor.output "s{n}", %s{n} : tensor<{tokens}x1x{type}>
  {f'mpk_tensor.output "y{n}", %y{n} : {result}' if self.leaves else ""}
"""


LINEARS = st.lists(
    st.builds(
        Linear,
        x=st.integers(0, 1),
        rows=st.sampled_from([8, 16, 16, 40, 12]),
        bias=st.booleans(),
        norm=st.booleans(),
        wide=st.booleans(),
        leaves=st.sampled_from([False, False, False, True]),
    ),
    min_size=1,
    max_size=7,
)


def parsed(linears: list[Linear], tokens: int) -> ModuleOp:
    body = "".join(linear.text(n, tokens) for n, linear in enumerate(linears))
    inputs = "".join(
        f'\n  %x{n} = mpk_tensor.input "x{n}" : tensor<{tokens}x16xbf16>' for n in range(2)
    )
    text = f"func.func @step() {{{inputs}{body}  func.return\n}}"
    return Parser(context(), text).parse_module()


@settings(max_examples=40)
@given(linears=LINEARS, tokens=st.integers(1, 3))
def test_random_linears(assert_same_numbers, linears: list[Linear], tokens: int) -> None:
    before, after = parsed(linears, tokens), parsed(linears, tokens)
    JoinLinearsPass().apply(context(), after)
    after.verify()
    left = sum(isinstance(op, tensor.LinearOp) for op in after.walk())
    kinds = [linear.kind for linear in linears]
    assert left == len(set(kinds) - {None}) + kinds.count(None)
    assert_same_numbers(before, after, 1e-2)
    families = PartitionTilesPass(workers=3)
    families.apply(context(), after)
    after.verify()
    copies = [op for op in after.walk() if isinstance(op, tensor.ReshapeOp)]
    assert len(copies) == 0, "no slice is copied"
    assert_same_numbers(before, after, 1e-2)
