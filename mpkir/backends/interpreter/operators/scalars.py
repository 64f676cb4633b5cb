"""Scalar arithmetic of `arith` and `math`, on whole arrays at once."""

from __future__ import annotations

import math as python_math
from collections.abc import Callable
from typing import Any

import numpy as np
from xdsl.dialects import arith, math
from xdsl.dialects.builtin import FloatAttr, IntegerAttr, IntegerType
from xdsl.ir import Operation

from mpkir.backends.interpreter.kernels import Kernel, builder
from mpkir.backends.interpreter.values import Array, carrier_dtype, rounding_to
from mpkir.errors import MpkirError

_erf = np.frompyfunc(python_math.erf, 1, 1)


def _round_half_away(x: Array) -> Array:
    return np.trunc(x + np.copysign(x.dtype.type(0.5), x))


def _floordiv(a: Array, b: Array) -> Array:
    return a // b


def _truncdiv(a: Array, b: Array) -> Array:
    quotient = np.abs(a) // np.abs(b)
    return np.where((a < 0) == (b < 0), quotient, -quotient)


_FUNCTIONS: dict[type[Operation], Callable[..., Any]] = {
    arith.AddfOp: np.add,
    arith.SubfOp: np.subtract,
    arith.MulfOp: np.multiply,
    arith.DivfOp: np.divide,
    arith.NegfOp: np.negative,
    arith.MaximumfOp: np.maximum,
    arith.MinimumfOp: np.minimum,
    arith.MaxnumfOp: np.fmax,
    arith.MinnumfOp: np.fmin,
    arith.AddiOp: np.add,
    arith.SubiOp: np.subtract,
    arith.MuliOp: np.multiply,
    arith.DivSIOp: _truncdiv,
    arith.FloorDivSIOp: _floordiv,
    arith.CeilDivSIOp: lambda a, b: -(-a // b),
    arith.RemSIOp: np.fmod,
    arith.MaxSIOp: np.maximum,
    arith.MinSIOp: np.minimum,
    arith.AndIOp: np.bitwise_and,
    arith.OrIOp: np.bitwise_or,
    arith.XOrIOp: np.bitwise_xor,
    arith.ShLIOp: np.left_shift,
    arith.ShRSIOp: np.right_shift,
    arith.SelectOp: np.where,
    math.AbsFOp: np.abs,
    math.AbsIOp: np.abs,
    math.AcosOp: np.arccos,
    math.AcoshOp: np.arccosh,
    math.AsinOp: np.arcsin,
    math.AsinhOp: np.arcsinh,
    math.Atan2Op: np.arctan2,
    math.AtanOp: np.arctan,
    math.AtanhOp: np.arctanh,
    math.CbrtOp: np.cbrt,
    math.CeilOp: np.ceil,
    math.CopySignOp: np.copysign,
    math.CosOp: np.cos,
    math.CoshOp: np.cosh,
    math.ErfOp: lambda x: _erf(x),
    math.Exp2Op: np.exp2,
    math.ExpM1Op: np.expm1,
    math.ExpOp: np.exp,
    math.FPowIOp: np.power,
    math.FloorOp: np.floor,
    math.FmaOp: lambda a, b, c: a * b + c,
    math.IPowIOp: np.power,
    math.Log10Op: np.log10,
    math.Log1pOp: np.log1p,
    math.Log2Op: np.log2,
    math.LogOp: np.log,
    math.PowFOp: np.power,
    math.RoundEvenOp: np.rint,
    math.RoundOp: _round_half_away,
    math.RsqrtOp: lambda x: 1 / np.sqrt(x),
    math.SinOp: np.sin,
    math.SinhOp: np.sinh,
    math.SqrtOp: np.sqrt,
    math.TanOp: np.tan,
    math.TanhOp: np.tanh,
    math.TruncOp: np.trunc,
}


@builder(*_FUNCTIONS)
def _function(op: Operation) -> Kernel:
    """A NumPy function, then the rounding to the op's type."""
    function = _FUNCTIONS[type(op)]
    to_type = rounding_to(op.results[0].type)
    return lambda _, *args: (to_type(np.asarray(function(*args))),)


@builder(arith.ConstantOp)
def _constant(op: arith.ConstantOp) -> Kernel:
    value = op.value
    if not isinstance(value, (FloatAttr, IntegerAttr)):
        raise MpkirError(f"the interpreter has no form for the constant {value}")
    dtype = carrier_dtype(op.result.type)
    array = rounding_to(op.result.type)(np.asarray(value.value.data).astype(dtype))
    return lambda _: (array,)


@builder(
    arith.ExtFOp,
    arith.TruncFOp,
    arith.SIToFPOp,
    arith.FPToSIOp,
    arith.IndexCastOp,
    arith.TruncIOp,
    arith.ExtUIOp,
    arith.UIToFPOp,
)
def _convert(op: Operation) -> Kernel:
    """A conversion by value. Unsigned forms are defined for i1 only: wider integers here are
    signed."""
    source, target = op.operands[0].type, op.results[0].type
    narrow = isinstance(source, IntegerType) and source.width.data == 1
    if isinstance(op, (arith.ExtUIOp, arith.UIToFPOp)) and not narrow:
        raise MpkirError(f"the interpreter runs {op.name} from i1 only, not from {source}")
    to_type = rounding_to(target)
    if isinstance(op, arith.TruncIOp) and carrier_dtype(target) == np.bool_:
        return lambda _, x: ((x & 1).astype(np.bool_),)
    if isinstance(op, arith.SIToFPOp) and narrow:
        return lambda _, x: (to_type(-x.astype(np.float32)),)
    return lambda _, x: (to_type(x),)


@builder(arith.ExtSIOp)
def _sign_extend(op: arith.ExtSIOp) -> Kernel:
    dtype = carrier_dtype(op.result.type)
    if carrier_dtype(op.input.type) == np.bool_:
        return lambda _, x: (-x.astype(dtype),)
    return lambda _, x: (x.astype(dtype),)


_ORDERED: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_INTEGER_PREDICATES = ("eq", "ne", "lt", "le", "gt", "ge")
_FLOAT_PREDICATES = ("eq", "gt", "ge", "lt", "le", "ne")


@builder(arith.CmpiOp)
def _compare_integers(op: arith.CmpiOp) -> Kernel:
    predicate = op.predicate.value.data
    if predicate >= len(_INTEGER_PREDICATES):
        raise MpkirError("the interpreter compares integers as signed only")
    function = _ORDERED[_INTEGER_PREDICATES[predicate]]
    return lambda _, a, b: (function(a, b),)


@builder(arith.CmpfOp)
def _compare_floats(op: arith.CmpfOp) -> Kernel:
    """Predicates 0-15 as in MLIR: false, six ordered, ordered, six unordered, unordered, true."""
    predicate = op.predicate.value.data
    if predicate in (0, 15):
        constant = predicate == 15
        return lambda _, a, b: (np.full(np.broadcast(a, b).shape, constant),)
    if predicate in (7, 14):
        wanted = predicate == 14
        return lambda _, a, b: ((np.isnan(a) | np.isnan(b)) == wanted,)
    # MLIR: 1-6 are ordered, 8-13 the same predicates unordered.
    unordered = predicate > 7
    function = _ORDERED[_FLOAT_PREDICATES[(predicate - 1) % 7]]

    def compare(_: object, a: Array, b: Array) -> tuple[Array, ...]:
        nan = np.isnan(a) | np.isnan(b)
        return ((function(a, b) | nan) if unordered else (function(a, b) & ~nan),)

    return compare
