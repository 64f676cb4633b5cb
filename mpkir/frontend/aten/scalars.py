"""Scalar arithmetic: builds the regions of `mpk_tensor.elementwise` and of epilogues."""

from __future__ import annotations

import torch
from xdsl.dialects import arith, math
from xdsl.dialects.builtin import (
    AnyFloat,
    BFloat16Type,
    Float16Type,
    FloatAttr,
    IntegerAttr,
    IntegerType,
    bf16,
    f16,
    f32,
    f64,
    i1,
    i8,
    i16,
    i32,
    i64,
)
from xdsl.ir import Attribute, Block, Operation, SSAValue

TYPES: dict[torch.dtype, Attribute] = {
    torch.bfloat16: bf16,
    torch.float16: f16,
    torch.float32: f32,
    torch.float64: f64,
    torch.int64: i64,
    torch.int32: i32,
    torch.int16: i16,
    torch.int8: i8,
    torch.bool: i1,
}
"""Element types that the tensor dialect has for PyTorch's."""


def arithmetic_type(element: Attribute) -> Attribute:
    """What PyTorch computes in for tensors of this type: f32 for half precisions, else itself."""
    return f32 if isinstance(element, BFloat16Type | Float16Type) else element


def number(value: float, type: Attribute) -> FloatAttr | IntegerAttr:
    """A literal of a scalar type; floats are cut to integers as PyTorch does."""
    if isinstance(type, AnyFloat):
        return FloatAttr(float(value), type)
    if type == i1:
        return IntegerAttr(int(bool(value)), i1)
    assert isinstance(type, IntegerType)
    return IntegerAttr(int(value), type)


class Scalars:
    """Appends scalar operations to a block; each method takes and gives scalar values.

    Operands of a binary operation have the same type, which chooses between float and integer
    operations.
    """

    def __init__(self, block: Block) -> None:
        self.block = block

    def emit(self, op: Operation) -> SSAValue:
        self.block.add_op(op)
        return op.results[0]

    def constant(self, value: float, type: Attribute) -> SSAValue:
        return self.emit(arith.ConstantOp(number(value, type)))

    def convert(self, value: SSAValue, type: Attribute) -> SSAValue:
        """PyTorch's `to`: rounds to nearest even, cuts floats to integers, bool is `!= 0`."""
        source = value.type
        if source == type:
            return value
        if isinstance(source, AnyFloat):
            if isinstance(type, AnyFloat):
                if type.bitwidth > source.bitwidth:
                    return self.emit(arith.ExtFOp(value, type))
                if type.bitwidth < source.bitwidth:
                    return self.emit(arith.TruncFOp(value, type))
                return self.convert(self.convert(value, f32), type)
            wide = self.convert(value, arithmetic_type(source))
            if type == i1:
                return self.compare("une", wide, self.constant(0.0, wide.type))
            assert isinstance(type, IntegerType)
            return self.emit(arith.FPToSIOp(wide, type))
        assert isinstance(source, IntegerType)
        if isinstance(type, AnyFloat):
            wide = arithmetic_type(type)
            assert isinstance(wide, AnyFloat)
            cast = arith.UIToFPOp if source == i1 else arith.SIToFPOp
            return self.convert(self.emit(cast(value, wide)), type)
        assert isinstance(type, IntegerType)
        if type == i1:
            return self.compare("ne", value, self.constant(0, source))
        if type.width.data < source.width.data:
            return self.emit(arith.TruncIOp(value, type))
        return self.emit((arith.ExtUIOp if source == i1 else arith.ExtSIOp)(value, type))

    def compare(self, predicate: str, a: SSAValue, b: SSAValue) -> SSAValue:
        """`predicate` is arith's: oeq, une, olt .. for floats, eq, ne, slt .. for integers."""
        cmp = arith.CmpfOp if isinstance(a.type, AnyFloat) else arith.CmpiOp
        return self.emit(cmp(a, b, predicate))

    def order(self, relation: str, a: SSAValue, b: SSAValue) -> SSAValue:
        """`relation` is one of eq, ne, lt, le, gt, ge; NaN compares as in PyTorch."""
        if isinstance(a.type, AnyFloat):
            return self.compare(("u" if relation == "ne" else "o") + relation, a, b)
        prefix = "" if relation in ("eq", "ne") else ("u" if a.type == i1 else "s")
        return self.compare(prefix + relation, a, b)

    def select(self, condition: SSAValue, a: SSAValue, b: SSAValue) -> SSAValue:
        return self.emit(arith.SelectOp(condition, a, b))

    def add(self, a: SSAValue, b: SSAValue) -> SSAValue:
        if a.type == i1:
            return self.emit(arith.OrIOp(a, b))
        return self.emit((arith.AddfOp if isinstance(a.type, AnyFloat) else arith.AddiOp)(a, b))

    def sub(self, a: SSAValue, b: SSAValue) -> SSAValue:
        return self.emit((arith.SubfOp if isinstance(a.type, AnyFloat) else arith.SubiOp)(a, b))

    def mul(self, a: SSAValue, b: SSAValue) -> SSAValue:
        if a.type == i1:
            return self.emit(arith.AndIOp(a, b))
        return self.emit((arith.MulfOp if isinstance(a.type, AnyFloat) else arith.MuliOp)(a, b))

    def div(self, a: SSAValue, b: SSAValue) -> SSAValue:
        return self.emit(arith.DivfOp(a, b))

    def maximum(self, a: SSAValue, b: SSAValue) -> SSAValue:
        op = arith.MaximumfOp if isinstance(a.type, AnyFloat) else arith.MaxSIOp
        return self.emit(op(a, b))

    def minimum(self, a: SSAValue, b: SSAValue) -> SSAValue:
        op = arith.MinimumfOp if isinstance(a.type, AnyFloat) else arith.MinSIOp
        return self.emit(op(a, b))

    def neg(self, a: SSAValue) -> SSAValue:
        if isinstance(a.type, AnyFloat):
            return self.emit(arith.NegfOp(a))
        return self.sub(self.constant(0, a.type), a)

    def unary(self, name: str, a: SSAValue) -> SSAValue:
        """A function of the math dialect by its name: exp, cos, rsqrt, .."""
        return self.emit(_FUNCTIONS[name](a))

    def sigmoid(self, a: SSAValue) -> SSAValue:
        one = self.constant(1.0, a.type)
        return self.div(one, self.add(one, self.unary("exp", self.neg(a))))

    def power(self, a: SSAValue, exponent: float) -> SSAValue:
        """`a ** exponent`, by products and roots where those give PyTorch's value."""
        if exponent == 1:
            return a
        if exponent == 2:
            return self.mul(a, a)
        if exponent == 3:
            return self.mul(self.mul(a, a), a)
        if exponent == 0.5:
            return self.unary("sqrt", a)
        if exponent == -0.5:
            return self.unary("rsqrt", a)
        if exponent == -1:
            return self.div(self.constant(1.0, a.type), a)
        return self.emit(math.PowFOp(a, self.constant(exponent, a.type)))


_FUNCTIONS = {
    "abs": math.AbsFOp,
    "ceil": math.CeilOp,
    "cos": math.CosOp,
    "erf": math.ErfOp,
    "exp": math.ExpOp,
    "exp2": math.Exp2Op,
    "expm1": math.ExpM1Op,
    "floor": math.FloorOp,
    "log": math.LogOp,
    "log1p": math.Log1pOp,
    "log2": math.Log2Op,
    "round": math.RoundEvenOp,
    "rsqrt": math.RsqrtOp,
    "sin": math.SinOp,
    "sqrt": math.SqrtOp,
    "tanh": math.TanhOp,
    "trunc": math.TruncOp,
}

__all__ = ["TYPES", "Scalars", "arithmetic_type", "number"]
