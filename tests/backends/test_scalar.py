"""Scalar regions as C++: exact constants, rounding, names of functions, what has no form."""

from __future__ import annotations

import re

import pytest
from xdsl.dialects.builtin import f32, f64, i1, i32, i64
from xdsl.parser import Parser

from mpkir.backends.scalar import Spelling, literal, print_scalars
from mpkir.errors import MpkirError
from mpkir.pipeline import context


def printed(arguments: str, ops: str, spelling: Spelling | None = None):
    text = f'"builtin.module"() ({{ ^bb0({arguments}):\n{ops} }}) : () -> ()'
    block = Parser(context(), text).parse_module().body.block
    return print_scalars(block, [f"x{k}" for k in range(len(block.args))], spelling)


@pytest.mark.parametrize(
    ("value", "type", "text"),
    [
        (0.1, f32, "0x1.99999a0000000p-4f"),
        (0.1, f64, "0x1.999999999999ap-4"),
        (-2, f32, "-0x1.0000000000000p+1f"),
        (1e300, f32, "INFINITY"),
        (float("-inf"), f32, "(-INFINITY)"),
        (float("nan"), f64, "NAN"),
        (-(2**63), i64, "(-9223372036854775807LL - 1)"),
        (2**63, i64, "(-9223372036854775807LL - 1)"),
        (2**32 - 1, i32, "-1"),
        (-(2**31), i32, "(-2147483647 - 1)"),
        (-1, i1, "true"),
    ],
)
def test_literals(value: float, type, text: str):
    assert literal(value, type) == text


def test_a_chain_keeps_fp32_and_rounds_only_where_told():
    text = printed(
        "%a : bf16, %b : f32",
        """%0 = arith.extf %a : bf16 to f32
           %1 = arith.mulf %0, %b : f32
           %2 = arith.truncf %1 : f32 to bf16
           %3 = arith.extf %2 : bf16 to f32
           %4 = math.exp %3 : f32
           %5 = arith.truncf %4 : f32 to bf16
           mpk_tensor.yield %5 : bf16""",
        Spelling(functions={"exp": "fast_exp"}),
    )
    assert text.statements == (
        "const float v0 = (float)x0;",
        "const float v1 = v0 * x1;",
        "const float v2 = round_bf16(v1);",
        "const float v3 = (float)v2;",
        "const float v4 = fast_exp(v3);",
        "const float v5 = v4;",
    )
    assert text.results == ("v5",)


def test_double_functions_keep_their_names():
    text = printed(
        "%a : f64",
        """%0 = math.exp %a : f64
           %1 = math.rsqrt %0 : f64
           mpk_tensor.yield %1 : f64""",
        Spelling(functions={"exp": "fast_exp", "rsqrt": "fast_rsqrt"}),
    )
    assert text.statements[0] == "const double v0 = exp(x0);"
    assert text.statements[1] == "const double v1 = 0x1.0000000000000p+0 / sqrt(v0);"


def test_op_without_a_form_is_named():
    with pytest.raises(MpkirError, match=re.escape("'math.ctpop' of i32 has no form in C++")):
        printed("%a : i32", "%0 = math.ctpop %a : i32\n mpk_tensor.yield %0 : i32")


def test_type_without_a_form_is_named():
    with pytest.raises(MpkirError, match="f8E4M3"):
        printed("%a : f8E4M3", "%0 = arith.negf %a : f8E4M3\n mpk_tensor.yield %0 : f8E4M3")
