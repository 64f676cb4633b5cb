"""Regions of arith and math ops on scalars, printed as C++ for any backend of the C family.

Floats narrower than 32 bits are carried as `float`: an argument is handed over widened, arithmetic
on them keeps fp32, an explicit `arith.truncf` rounds, and the result is narrowed where it is stored
(so a truncf that is only yielded costs nothing). i1 is `bool`, the other signless integers are
signed two's complement and wrap around.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isinf, isnan

from xdsl.dialects import arith, math
from xdsl.dialects.builtin import (
    BFloat16Type,
    Float16Type,
    Float32Type,
    Float64Type,
    FloatAttr,
    IndexType,
    IntegerAttr,
    IntegerType,
    UnknownLoc,
)
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.traits import IsTerminator

from mpkir.errors import MpkirError


@dataclass(frozen=True)
class Spelling:
    """What a backend calls the things that C++ compilers name differently.

    `round_bf16`, `round_f16`: functions float -> float that round to a narrower type and back (to
    nearest even).
    `functions`: math function of a `float` -> its name, where it is not C's (`exp` is `expf`); a
    double's is always C's.
    """

    round_bf16: str = "round_bf16"
    round_f16: str = "round_f16"
    infinity: str = "INFINITY"
    nan: str = "NAN"
    functions: Mapping[str, str] = field(default_factory=dict[str, str])

    def function(self, name: str, type: Attribute) -> str:
        """The function that computes `name` (C's name for a double) for scalars of a type."""
        if isinstance(type, Float64Type):
            return name
        return self.functions.get(name, f"{name}f")


@dataclass(frozen=True)
class Scalars:
    """A printed region: statements in order, and the name of each yielded value."""

    statements: tuple[str, ...]
    results: tuple[str, ...]


def carried_type(type: Attribute) -> str:
    """The C++ type in which a scalar is computed; MpkirError for a type without one."""
    match type:
        case BFloat16Type() | Float16Type() | Float32Type():
            return "float"
        case Float64Type():
            return "double"
        case IndexType():
            return "long long"
        case IntegerType() if type.width.data in _INTEGERS:
            return _INTEGERS[type.width.data]
        case _:
            raise MpkirError(f"scalars of type {type} have no form in C++")


def storage_type(type: Attribute) -> str:
    """The C++ type of an element in memory."""
    match type:
        case BFloat16Type():
            return "mpk::bf16"
        case Float16Type():
            return "mpk::f16"
        case _:
            return carried_type(type)


def print_scalars(
    block: Block, arguments: Sequence[str], spelling: Spelling | None = None, prefix: str = "v"
) -> Scalars:
    """Print a region's one block of arith and math ops.

    block       ends with a terminator, whose operands are the results (mpk_tensor.yield)
    arguments   C++ names of the block's arguments, each of its `carried_type`
    prefix      the statements define constants `<prefix>0`, `<prefix>1`, ...

    Raises MpkirError naming an op or a type that has no form in C++.
    """
    return _Printer(spelling or Spelling(), prefix).run(block, arguments)


def literal(value: float | int, type: Attribute, spelling: Spelling | None = None) -> str:
    """A constant of a scalar type, exact: floats in hexadecimal, infinities and nan by name."""
    spelling = spelling or Spelling()
    if isinstance(type, (BFloat16Type, Float16Type, Float32Type, Float64Type)):
        return _float_literal(float(value), isinstance(type, Float64Type), spelling)
    number = int(value)
    if type == IntegerType(1):
        return "true" if number else "false"
    width = type.width.data if isinstance(type, IntegerType) else 64
    number = (number + (1 << (width - 1))) % (1 << width) - (1 << (width - 1))
    if width < 64:
        return str(number) if number > -(1 << 31) else "(-2147483647 - 1)"
    return f"{number}LL" if number > -(1 << 63) else "(-9223372036854775807LL - 1)"


_INTEGERS = {1: "bool", 8: "signed char", 16: "short", 32: "int", 64: "long long"}

_INFIX = {
    arith.AddfOp: "+",
    arith.SubfOp: "-",
    arith.MulfOp: "*",
    arith.DivfOp: "/",
    arith.AddiOp: "+",
    arith.SubiOp: "-",
    arith.MuliOp: "*",
    arith.DivSIOp: "/",
    arith.RemSIOp: "%",
    arith.AndIOp: "&",
    arith.OrIOp: "|",
    arith.XOrIOp: "^",
    arith.ShLIOp: "<<",
    arith.ShRSIOp: ">>",
}
_UNSIGNED_INFIX = {arith.DivUIOp: "/", arith.RemUIOp: "%", arith.ShRUIOp: ">>"}

# The conditions are written so that a NaN is chosen (minimumf, maximumf) or passed over (minnumf,
# maxnumf).
_CHOICES: dict[type[Operation], str] = {
    arith.MinimumfOp: "({0} < {1} || {0} != {0}) ? {0} : {1}",
    arith.MaximumfOp: "({0} > {1} || {0} != {0}) ? {0} : {1}",
    arith.MinnumfOp: "({0} < {1} || {1} != {1}) ? {0} : {1}",
    arith.MaxnumfOp: "({0} > {1} || {1} != {1}) ? {0} : {1}",
    arith.MinSIOp: "{0} < {1} ? {0} : {1}",
    arith.MaxSIOp: "{0} > {1} ? {0} : {1}",
    arith.SelectOp: "{0} ? {1} : {2}",
    arith.FloorDivSIOp: "{0} / {1} - ({0} % {1} != 0 && ({0} < 0) != ({1} < 0))",
    arith.CeilDivSIOp: "{0} / {1} + ({0} % {1} != 0 && ({0} < 0) == ({1} < 0))",
    arith.NegfOp: "-{0}",
    math.AbsIOp: "{0} < 0 ? -{0} : {0}",
}
_UNSIGNED_CHOICES: dict[type[Operation], str] = {
    arith.MinUIOp: "{2}{0} < {2}{1} ? {0} : {1}",
    arith.MaxUIOp: "{2}{0} > {2}{1} ? {0} : {1}",
}

_FUNCTIONS: dict[type[Operation], str] = {
    math.AbsFOp: "fabs",
    math.AcosOp: "acos",
    math.AcoshOp: "acosh",
    math.AsinOp: "asin",
    math.AsinhOp: "asinh",
    math.AtanOp: "atan",
    math.Atan2Op: "atan2",
    math.AtanhOp: "atanh",
    math.CbrtOp: "cbrt",
    math.CeilOp: "ceil",
    math.CopySignOp: "copysign",
    math.CosOp: "cos",
    math.CoshOp: "cosh",
    math.ErfOp: "erf",
    math.ExpOp: "exp",
    math.Exp2Op: "exp2",
    math.ExpM1Op: "expm1",
    math.FloorOp: "floor",
    math.FmaOp: "fma",
    math.LogOp: "log",
    math.Log10Op: "log10",
    math.Log1pOp: "log1p",
    math.Log2Op: "log2",
    math.PowFOp: "pow",
    math.RoundOp: "round",
    math.RoundEvenOp: "nearbyint",
    math.SinOp: "sin",
    math.SinhOp: "sinh",
    math.SqrtOp: "sqrt",
    math.TanOp: "tan",
    math.TanhOp: "tanh",
    math.TruncOp: "trunc",
}

_CMPI = ("==", "!=", "<", "<=", ">", ">=", "<", "<=", ">", ">=")
_FIRST_UNSIGNED_CMPI = 6
# Ordered: false where an operand is NaN. Unordered: the negation of the opposite ordered
# comparison.
_CMPF = (
    "false",
    "{0} == {1}",
    "{0} > {1}",
    "{0} >= {1}",
    "{0} < {1}",
    "{0} <= {1}",
    "{0} < {1} || {0} > {1}",
    "{0} == {0} && {1} == {1}",
    "!({0} < {1} || {0} > {1})",
    "!({0} <= {1})",
    "!({0} < {1})",
    "!({0} >= {1})",
    "!({0} > {1})",
    "{0} != {1}",
    "{0} != {0} || {1} != {1}",
    "true",
)


def _float_literal(value: float, is_double: bool, spelling: Spelling) -> str:
    if not is_double:
        (value,) = struct.unpack("f", struct.pack("f", value))
    if isnan(value):
        return spelling.nan
    if isinf(value):
        return spelling.infinity if value > 0 else f"(-{spelling.infinity})"
    return value.hex() if is_double else f"{value.hex()}f"


@dataclass
class _Printer:
    spelling: Spelling
    prefix: str
    names: dict[SSAValue, str] = field(default_factory=dict[SSAValue, str])
    statements: list[str] = field(default_factory=list[str])

    def run(self, block: Block, arguments: Sequence[str]) -> Scalars:
        self.names.update(zip(block.args, arguments, strict=True))
        for op in block.ops:
            if op.has_trait(IsTerminator):
                results = tuple(self.names[value] for value in op.operands)
                return Scalars(tuple(self.statements), results)
            self.define(op)
        raise MpkirError("a scalar region has no terminator")

    def define(self, op: Operation) -> None:
        (result,) = op.results
        expression = self.expression(op, tuple(self.names[v] for v in op.operands))
        name = f"{self.prefix}{len(self.statements)}"
        self.statements.append(f"const {carried_type(result.type)} {name} = {expression};")
        self.names[result] = name

    def expression(self, op: Operation, args: tuple[str, ...]) -> str:
        type = op.operands[0].type if op.operands else op.results[0].type
        kind = op.__class__
        if (sign := _INFIX.get(kind)) is not None:
            return f"{args[0]} {sign} {args[1]}"
        if (sign := _UNSIGNED_INFIX.get(kind)) is not None:
            cast = _unsigned_cast(type)
            return f"{cast}{args[0]} {sign} {cast}{args[1]}"
        if (text := _CHOICES.get(kind)) is not None:
            return text.format(*args)
        if (text := _UNSIGNED_CHOICES.get(kind)) is not None:
            return text.format(*args, _unsigned_cast(type))
        if (function := _FUNCTIONS.get(kind)) is not None:
            return f"{self.spelling.function(function, type)}({', '.join(args)})"
        return self.special(op, type, args)

    def special(self, op: Operation, type: Attribute, args: tuple[str, ...]) -> str:
        match op:
            case arith.ConstantOp():
                return self.constant(op)
            case arith.CmpiOp():
                predicate = op.predicate.value.data
                cast = _unsigned_cast(type) if predicate >= _FIRST_UNSIGNED_CMPI else ""
                return f"{cast}{args[0]} {_CMPI[predicate]} {cast}{args[1]}"
            case arith.CmpfOp():
                return _CMPF[op.predicate.value.data].format(*args)
            case math.RsqrtOp():
                one = literal(1.0, type)
                default = f"{one} / {self.spelling.function('sqrt', type)}"
                own = self.spelling.functions.get("rsqrt")
                return f"{own if own and not isinstance(type, Float64Type) else default}({args[0]})"
            case math.FPowIOp():
                power = self.spelling.function("pow", type)
                return f"{power}({args[0]}, {_cast(type)}{args[1]})"
            case arith.TruncFOp():
                return self.truncated(op, args[0])
            case arith.SIToFPOp() | arith.ExtSIOp() if type == IntegerType(1):
                return f"{_cast(op.results[0].type)}-int({args[0]})"
            case arith.UIToFPOp() | arith.ExtUIOp():
                return f"{_cast(op.results[0].type)}({_unsigned_cast(type)}{args[0]})"
            case arith.TruncIOp() if op.results[0].type == IntegerType(1):
                return f"({args[0]} & 1) != 0"
            case (
                arith.ExtFOp()
                | arith.SIToFPOp()
                | arith.FPToSIOp()
                | arith.ExtSIOp()
                | arith.TruncIOp()
                | arith.IndexCastOp()
            ):
                return f"{_cast(op.results[0].type)}{args[0]}"
            case arith.FPToUIOp():
                return f"{_cast(op.results[0].type)}{_unsigned_cast(op.results[0].type)}{args[0]}"
            case _:
                where = None if isinstance(op.location, UnknownLoc) else str(op.location)
                raise MpkirError(
                    f"'{op.name}' of {', '.join(str(v.type) for v in op.operands)} "
                    "has no form in C++",
                    where=where,
                    hint="write it with other arith or math ops",
                )

    def constant(self, op: arith.ConstantOp) -> str:
        type = op.result.type
        match op.value:
            case FloatAttr() as value:
                return literal(value.value.data, type, self.spelling)
            case IntegerAttr() as value:
                return literal(value.value.data, type, self.spelling)
            case _:
                raise MpkirError(f"a constant of type {type} is no scalar")

    def truncated(self, op: arith.TruncFOp, arg: str) -> str:
        type = op.result.type
        narrow = f"float({arg})" if isinstance(op.input.type, Float64Type) else arg
        stored = all(use.operation.has_trait(IsTerminator) for use in op.result.uses)
        if stored or isinstance(type, Float32Type):
            return narrow
        rounding: Callable[[str], str] = {
            BFloat16Type: lambda x: f"{self.spelling.round_bf16}({x})",
            Float16Type: lambda x: f"{self.spelling.round_f16}({x})",
        }[type.__class__]
        return rounding(narrow)


def _cast(type: Attribute) -> str:
    return f"({carried_type(type)})"


def _unsigned_cast(type: Attribute) -> str:
    if type == IntegerType(1):
        return ""
    return f"(unsigned {carried_type(type).removeprefix('signed ')})"
