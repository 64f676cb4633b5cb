"""Scalar regions compiled and run: special values, integers that wrap, every math function."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

SPECIAL = torch.tensor(
    [0.0, -0.0, 1.0, -1.5, 0.3, 88.0, -110.0, 1e-40, 3e38, math.inf, -math.inf, math.nan]
)


def program(functions: dict[str, str], inputs: str, results: str, count: int) -> str:
    kinds = inputs.split()
    body = "\n".join(
        f'%in{k} = mpk_tensor.input "in{k}" : tensor<{count}x{e}>' for k, e in enumerate(kinds)
    )
    operands = ", ".join(f"%in{k}" for k in range(len(kinds)))
    types = ", ".join(f"tensor<{count}x{e}>" for e in kinds)
    arguments = ", ".join(f"%{k} : {e}" for k, e in enumerate(kinds))
    for name, ops in functions.items():
        body += f"""
          %{name} = mpk_tensor.elementwise {operands} {{
          ^bb0({arguments}):
            {ops}
            mpk_tensor.yield %r : {results}
          }} : ({types}) -> tensor<{count}x{results}>
          mpk_tensor.output "{name}", %{name} : tensor<{count}x{results}>"""
    return body


def test_math_functions(start):
    references: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt,
        "sin": torch.sin, "cos": torch.cos, "tanh": torch.tanh, "erf": torch.erf,
        "absf": torch.abs, "floor": torch.floor, "ceil": torch.ceil, "trunc": torch.trunc,
        "roundeven": torch.round, "log1p": torch.log1p, "expm1": torch.expm1, "atan": torch.atan,
    }  # fmt: skip
    x = torch.cat([SPECIAL, 4 * torch.randn(500), torch.linspace(-104, 89, 4000)])
    step = start(program({n: f"%r = math.{n} %0 : f32" for n in references}, "f32", "f32", len(x)))
    got = step(in0=x)
    for name, function in references.items():
        expected = function(x.double()).float()
        torch.testing.assert_close(
            got[name],
            expected,
            rtol=3e-7,
            atol=1.5e-45,
            equal_nan=True,
            msg=lambda m: f"{name}: {m}",
        )


PREDICATES = "false oeq ogt oge olt ole one ord ueq ugt uge ult ule une uno".split()


def test_comparisons_and_choices(start):
    a, b = (t.reshape(-1) for t in torch.meshgrid(SPECIAL, SPECIAL, indexing="ij"))
    functions = {p: f"%r = arith.cmpf {p}, %0, %1 : f32" for p in PREDICATES}
    got = step_bool = start(program(functions, "f32 f32", "i1", len(a)))(in0=a, in1=b)
    unordered = a.isnan() | b.isnan()
    ordered = {"eq": a == b, "gt": a > b, "ge": a >= b, "lt": a < b, "le": a <= b}
    ordered["ne"] = (a < b) | (a > b)
    for p in PREDICATES[1:]:
        if p in ("ord", "uno"):
            expected = unordered if p == "uno" else ~unordered
        else:
            expected = ordered[p[1:]] & ~unordered if p[0] == "o" else ordered[p[1:]] | unordered
        assert torch.equal(got[p], expected), p
    assert not step_bool["false"].any()
    choices = {
        "minimumf": np.minimum,
        "maximumf": np.maximum,
        "minnumf": np.fmin,
        "maxnumf": np.fmax,
    }
    got = start(
        program({n: f"%r = arith.{n} %0, %1 : f32" for n in choices}, "f32 f32", "f32", len(a))
    )(in0=a, in1=b)
    for name, function in choices.items():
        np.testing.assert_array_equal(got[name].numpy(), function(a.numpy(), b.numpy()), name)


@pytest.mark.parametrize("e", ["i64", "i32", "i8"])
def test_integers_wrap_and_divide(start, e: str):
    dtype = {"i64": torch.int64, "i32": torch.int32, "i8": torch.int8}[e]
    least, most = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    values = torch.tensor([least, least + 1, -7, -1, 1, 2, 7, most], dtype=dtype)
    a, b = (t.reshape(-1) for t in torch.meshgrid(values, values, indexing="ij"))
    keep = ~((a == least) & (b == -1))
    a, b = a[keep], b[keep]
    unsigned = {"i64": np.uint64, "i32": np.uint32, "i8": np.uint8}[e]
    u, v = a.numpy().view(unsigned), b.numpy().view(unsigned)
    signed = a.numpy().dtype
    expected = {
        "addi": (u + v).view(signed),
        "muli": (u * v).view(signed),
        "divsi": torch.div(a, b, rounding_mode="trunc").numpy(),
        "floordivsi": torch.div(a, b, rounding_mode="floor").numpy(),
        "remsi": torch.fmod(a, b).numpy(),
        "divui": (u // v).view(signed),
        "remui": (u % v).view(signed),
        "minui": np.minimum(u, v).view(signed),
        "maxsi": np.maximum(a.numpy(), b.numpy()),
        "xori": a.numpy() ^ b.numpy(),
    }
    functions = {n: f"%r = arith.{n} %0, %1 : {e}" for n in expected}
    got = start(program(functions, f"{e} {e}", e, len(a)))(in0=a, in1=b)
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name].numpy(), value, name)


def test_conversions(start):
    """Bools are 1 as unsigned and -1 as signed numbers; floats to integers cut the fraction."""
    functions = {
        "signed": "%r = arith.sitofp %0 : i1 to f32",
        "unsigned": "%r = arith.uitofp %0 : i1 to f32",
        "cut": "%2 = arith.fptosi %1 : f32 to i64\n %r = arith.sitofp %2 : i64 to f32",
        "wide": "%2 = arith.extsi %0 : i1 to i32\n %r = arith.sitofp %2 : i32 to f32",
        "chosen": "%2 = arith.constant -0.0 : f32\n %r = arith.select %0, %1, %2 : f32",
        "rounded": "%2 = arith.truncf %1 : f32 to bf16\n %r = arith.extf %2 : bf16 to f32",
    }
    flags, x = torch.tensor([True, False] * 3), torch.tensor([1.7, -1.7, 5.0, 0.1, -0.1, 1e9])
    got = start(program(functions, "i1 f32", "f32", 6))(in0=flags, in1=x)
    assert torch.equal(got["signed"], -flags.float())
    assert torch.equal(got["unsigned"], flags.float())
    assert torch.equal(got["cut"], x.trunc() + 0.0)
    assert torch.equal(got["wide"], -flags.float())
    assert torch.equal(got["chosen"], torch.where(flags, x, torch.tensor(-0.0)))
    assert torch.equal(got["rounded"], x.bfloat16().float())
