"""Pointwise ATen operators: each becomes one `mpk_tensor.elementwise`."""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

import torch
from torch import fx
from xdsl.dialects import arith, math
from xdsl.dialects.builtin import AnyFloat, i1
from xdsl.ir import Attribute, SSAValue

from mpkir.dialects import tensor
from mpkir.frontend.aten.registry import Lowering, register_lowering
from mpkir.frontend.aten.scalars import TYPES, Scalars, arithmetic_type

aten = torch.ops.aten
Operand = SSAValue | float


def _promoted(low: Lowering, *positions: int) -> Attribute:
    """The type in which PyTorch joins these arguments (tensors and Python numbers)."""
    values: list[Any] = [low.node.args[i] for i in positions]
    values = [v.meta["val"] if isinstance(v, fx.Node) else v for v in values]
    return arithmetic_type(TYPES[torch.result_type(values[0], values[-1])])


def _define_unary(name: str) -> None:
    @register_lowering(getattr(aten, name).default)
    def lower(low: Lowering, x: SSAValue) -> SSAValue:
        return low.pointwise([x], lambda s, a: s.unary(name, a))


for _name in (
    "ceil cos erf exp exp2 expm1 floor log log1p log2 round rsqrt sin sqrt tanh trunc"
).split():
    _define_unary(_name)


def _define_comparison(name: str) -> None:
    @register_lowering(getattr(aten, name).Tensor, getattr(aten, name).Scalar)
    def lower(low: Lowering, a: SSAValue, b: Operand) -> SSAValue:
        compute = _promoted(low, 0, 1)
        return low.pointwise([a, b], lambda s, x, y: s.order(name, x, y), compute=compute)


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _define_comparison(_name)


@register_lowering(aten.add.Tensor, aten.add.Scalar)
def add(low: Lowering, a: Operand, b: Operand, alpha: float = 1) -> SSAValue:
    if alpha == 1:
        return low.pointwise([a, b], Scalars.add)
    return low.pointwise([a, b, alpha], lambda s, x, y, f: s.add(x, s.mul(y, f)))


@register_lowering(aten.sub.Tensor, aten.sub.Scalar, aten.subtract.Tensor, aten.subtract.Scalar)
def sub(low: Lowering, a: Operand, b: Operand, alpha: float = 1) -> SSAValue:
    if alpha == 1:
        return low.pointwise([a, b], Scalars.sub)
    return low.pointwise([a, b, alpha], lambda s, x, y, f: s.sub(x, s.mul(y, f)))


@register_lowering(aten.rsub.Tensor, aten.rsub.Scalar)
def rsub(low: Lowering, a: SSAValue, b: Operand, alpha: float = 1) -> SSAValue:
    return low.pointwise([b, a, alpha], lambda s, x, y, f: s.sub(x, s.mul(y, f)))


@register_lowering(aten.mul.Tensor, aten.mul.Scalar, aten.multiply.Tensor, aten.multiply.Scalar)
def mul(low: Lowering, a: Operand, b: Operand) -> SSAValue:
    return low.pointwise([a, b], Scalars.mul)


@register_lowering(aten.div.Tensor, aten.div.Scalar, aten.divide.Tensor, aten.divide.Scalar)
def div(low: Lowering, a: Operand, b: Operand) -> SSAValue:
    return low.pointwise([a, b], Scalars.div)


@register_lowering(aten.div.Tensor_mode, aten.div.Scalar_mode)
def div_mode(low: Lowering, a: Operand, b: Operand, rounding_mode: str | None = None) -> SSAValue:
    if rounding_mode is None:
        return div(low, a, b)
    if isinstance(low.element, AnyFloat):
        return low.pointwise([a, b], lambda s, x, y: s.unary(rounding_mode, s.div(x, y)))
    op = arith.FloorDivSIOp if rounding_mode == "floor" else arith.DivSIOp
    return low.pointwise([a, b], lambda s, x, y: s.emit(op(x, y)))


@register_lowering(aten.floor_divide.default, aten.floor_divide.Scalar)
def floor_divide(low: Lowering, a: Operand, b: Operand) -> SSAValue:
    return div_mode(low, a, b, rounding_mode="floor")


@register_lowering(aten.remainder.Tensor, aten.remainder.Scalar)
def remainder(low: Lowering, a: Operand, b: Operand) -> SSAValue:
    if isinstance(low.element, AnyFloat):
        return low.pointwise(
            [a, b], lambda s, x, y: s.sub(x, s.mul(s.unary("floor", s.div(x, y)), y))
        )
    return low.pointwise(
        [a, b], lambda s, x, y: s.sub(x, s.mul(s.emit(arith.FloorDivSIOp(x, y)), y))
    )


@register_lowering(aten.pow.Tensor_Scalar)
def pow_scalar(low: Lowering, a: SSAValue, exponent: float) -> SSAValue:
    if not isinstance(low.element, AnyFloat) and exponent not in (1, 2, 3):
        low.fail(f"has the exponent {exponent} on integers")
    return low.pointwise([a], lambda s, x: s.power(x, exponent))


@register_lowering(aten.pow.Scalar, aten.pow.Tensor_Tensor)
def pow_tensor(low: Lowering, a: Operand, exponent: SSAValue) -> SSAValue:
    if not isinstance(low.element, AnyFloat):
        low.fail("has integers with a tensor of exponents")
    return low.pointwise([a, exponent], lambda s, x, y: s.emit(math.PowFOp(x, y)))


@register_lowering(aten.neg.default, aten.negative.default)
def neg(low: Lowering, a: SSAValue) -> SSAValue:
    return low.pointwise([a], Scalars.neg)


@register_lowering(aten.reciprocal.default)
def reciprocal(low: Lowering, a: SSAValue) -> SSAValue:
    return low.pointwise([a], lambda s, x: s.power(x, -1))


@register_lowering(aten.abs.default)
def absolute(low: Lowering, a: SSAValue) -> SSAValue:
    if isinstance(low.element, AnyFloat):
        return low.pointwise([a], lambda s, x: s.unary("abs", x))
    return low.pointwise([a], lambda s, x: s.maximum(x, s.neg(x)))


@register_lowering(aten.square.default)
def square(low: Lowering, a: SSAValue) -> SSAValue:
    return low.pointwise([a], lambda s, x: s.mul(x, x))


@register_lowering(aten.sigmoid.default)
def sigmoid(low: Lowering, a: SSAValue) -> SSAValue:
    return low.pointwise([a], Scalars.sigmoid)


@register_lowering(aten.silu.default)
def silu(low: Lowering, a: SSAValue) -> SSAValue:
    return low.pointwise([a], lambda s, x: s.mul(x, s.sigmoid(x)))


@register_lowering(aten.relu.default)
def relu(low: Lowering, a: SSAValue) -> SSAValue:
    return low.pointwise([a], lambda s, x: s.maximum(x, s.constant(0, x.type)))


@register_lowering(aten.softplus.default)
def softplus(low: Lowering, a: SSAValue, beta: float = 1, threshold: float = 20) -> SSAValue:
    def body(s: Scalars, x: SSAValue) -> SSAValue:
        scaled = s.mul(x, s.constant(beta, x.type))
        soft = s.div(s.unary("log1p", s.unary("exp", scaled)), s.constant(beta, x.type))
        return s.select(s.order("gt", scaled, s.constant(threshold, x.type)), x, soft)

    return low.pointwise([a], body)


@register_lowering(aten.gelu.default)
def gelu(low: Lowering, a: SSAValue, approximate: str = "none") -> SSAValue:
    def body(s: Scalars, x: SSAValue) -> SSAValue:
        if approximate == "tanh":
            cubic = s.mul(s.constant(0.044715, x.type), s.power(x, 3))
            inner = s.mul(s.constant(sqrt(2 / pi), x.type), s.add(x, cubic))
            gate = s.unary("tanh", inner)
        else:
            gate = s.unary("erf", s.mul(x, s.constant(sqrt(0.5), x.type)))
        half = s.mul(s.constant(0.5, x.type), x)
        return s.mul(half, s.add(s.constant(1.0, x.type), gate))

    return low.pointwise([a], body)


@register_lowering(aten.maximum.default, aten.max.other)
def maximum(low: Lowering, a: SSAValue, b: SSAValue) -> SSAValue:
    return low.pointwise([a, b], Scalars.maximum)


@register_lowering(aten.minimum.default, aten.min.other)
def minimum(low: Lowering, a: SSAValue, b: SSAValue) -> SSAValue:
    return low.pointwise([a, b], Scalars.minimum)


@register_lowering(aten.clamp.default, aten.clamp.Tensor, aten.clamp_min.default)
def clamp(
    low: Lowering, a: SSAValue, min: Operand | None = None, max: Operand | None = None
) -> SSAValue:
    def body(s: Scalars, x: SSAValue, *bounds: SSAValue) -> SSAValue:
        rest = list(bounds)
        if min is not None:
            x = s.maximum(x, rest.pop(0))
        return s.minimum(x, rest.pop(0)) if max is not None else x

    return low.pointwise([a, *(b for b in (min, max) if b is not None)], body)


@register_lowering(aten.clamp_max.default)
def clamp_max(low: Lowering, a: SSAValue, max: Operand) -> SSAValue:
    return clamp(low, a, None, max)


@register_lowering(
    aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar
)
def where(low: Lowering, condition: SSAValue, a: Operand, b: Operand) -> SSAValue:
    element = low.element

    def body(s: Scalars, *values: SSAValue) -> SSAValue:
        rest = list(values)
        chosen = s.convert(rest.pop(0), i1)
        sides = [
            s.convert(rest.pop(0), element) if isinstance(v, SSAValue) else s.constant(v, element)
            for v in (a, b)
        ]
        return s.select(chosen, *sides)

    tensors = [condition, *(v for v in (a, b) if isinstance(v, SSAValue))]
    return low.pointwise(tensors, body, raw=True)


@register_lowering(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(low: Lowering, a: SSAValue, mask: SSAValue, value: Operand) -> SSAValue:
    return where(low, mask, value, a)


def _define_logic(names: str, op: type[Any]) -> None:
    overloads = [getattr(getattr(aten, n), o) for n, o in (e.split(".") for e in names.split())]

    @register_lowering(*overloads)
    def lower(low: Lowering, a: SSAValue, b: Operand) -> SSAValue:
        return low.pointwise([a, b], lambda s, x, y: s.emit(op(x, y)))


_define_logic(
    "bitwise_and.Tensor bitwise_and.Scalar __and__.Tensor logical_and.default", arith.AndIOp
)
_define_logic("bitwise_or.Tensor bitwise_or.Scalar __or__.Tensor logical_or.default", arith.OrIOp)
_define_logic("bitwise_xor.Tensor __xor__.Tensor logical_xor.default", arith.XOrIOp)


@register_lowering(aten.logical_not.default, aten.bitwise_not.default)
def logical_not(low: Lowering, a: SSAValue) -> SSAValue:
    if low.element != i1:
        return low.pointwise([a], lambda s, x: s.emit(arith.XOrIOp(x, s.constant(-1, x.type))))
    return low.pointwise([a], lambda s, x: s.emit(arith.XOrIOp(x, s.constant(1, i1))))


@register_lowering(aten.copy.default)
def copy(low: Lowering, a: SSAValue, source: SSAValue, non_blocking: bool = False) -> SSAValue:
    """`a.copy_(source)`: source, converted and broadcast."""
    value = low.convert(source, low.element)
    if tensor.shape_of(value) != low.shape:
        value = low.emit(tensor.BroadcastOp(value, low.shape))
    return value


@register_lowering(
    aten._to_copy.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.device,
    aten.type_as.default,
)
def to(low: Lowering, a: SSAValue, *_: Any, **__: Any) -> SSAValue:
    return low.convert(a, low.element)
