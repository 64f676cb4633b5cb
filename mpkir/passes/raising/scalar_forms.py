"""What an elementwise op computes, as an expression that can be compared.

Roundings between float types are left out: a raised operator may keep more precision than the
ops it replaces.
"""

from __future__ import annotations

from math import prod

from xdsl.dialects import arith
from xdsl.dialects.builtin import AnyFloat, FloatAttr, IntegerAttr
from xdsl.ir import Operation, SSAValue

from mpkir.dialects import tensor
from mpkir.dialects.tensor import element_type_of, shape_of

Form = tuple["str | float | Form", ...]
"""("arg", i), ("const", c) or (op name, operand form, ..)."""


def form_of(op: tensor.ElementwiseOp) -> Form:
    """The yielded value as an expression of the region's arguments."""
    block = op.body.block
    forms: dict[SSAValue, Form] = {arg: ("arg", i) for i, arg in enumerate(block.args)}
    for inner in block.ops:
        if isinstance(inner, tensor.YieldOp):
            return forms[inner.arguments[0]]
        forms[inner.results[0]] = _form_of_scalar(inner, forms)
    raise AssertionError("an elementwise region ends in a yield")


def _form_of_scalar(op: Operation, forms: dict[SSAValue, Form]) -> Form:
    if isinstance(op, arith.ExtFOp | arith.TruncFOp):
        return forms[op.operands[0]]
    if isinstance(op, arith.ConstantOp):
        value = op.value
        assert isinstance(value, FloatAttr | IntegerAttr)
        return ("const", float(value.value.data))
    if isinstance(op, arith.CmpfOp | arith.CmpiOp):
        return (f"{op.name} {op.predicate.value.data}", *(forms[v] for v in op.operands))
    return (op.name, *(forms[v] for v in op.operands))


def elementwise(value: SSAValue) -> tensor.ElementwiseOp | None:
    """The elementwise op that computes the value, if one does."""
    return value.owner if isinstance(value.owner, tensor.ElementwiseOp) else None


def binary(value: SSAValue, name: str) -> tuple[SSAValue, SSAValue] | None:
    """The operands of `name` if the value is that scalar operation on two tensors."""
    op = elementwise(value)
    if op is None:
        return None
    match form_of(op):
        case (str(found), ("arg", int(a)), ("arg", int(b))) if found == name:
            return op.inputs[a], op.inputs[b]
        case _:
            return None


def unary(value: SSAValue, name: str) -> SSAValue | None:
    """The operand of `name` if the value is that scalar operation on one tensor."""
    op = elementwise(value)
    if op is not None and form_of(op) == (name, ("arg", 0)):
        return op.inputs[0]
    return None


def with_constant(value: SSAValue, name: str) -> tuple[SSAValue, float] | None:
    """Tensor and literal if the value is `name` of the two, in this order."""
    op = elementwise(value)
    if op is None:
        return None
    match form_of(op):
        case (str(found), ("arg", 0), ("const", float(c))) if found == name:
            return op.inputs[0], c
        case _:
            return None


def through_roundings(value: SSAValue) -> SSAValue:
    """The value before conversions between float types."""
    while (op := elementwise(value)) is not None:
        if form_of(op) != ("arg", 0) or not isinstance(element_type_of(op.inputs[0]), AnyFloat):
            break
        if not isinstance(element_type_of(value), AnyFloat):
            break
        if shape_of(op.inputs[0]) != shape_of(value):
            break
        value = op.inputs[0]
    return value


def through_widenings(value: SSAValue) -> SSAValue:
    """The value before conversions to a wider float type, which change nothing."""
    while (op := elementwise(value)) is not None:
        if form_of(op) != ("arg", 0) or shape_of(op.inputs[0]) != shape_of(value):
            break
        narrow, wide = element_type_of(op.inputs[0]), element_type_of(value)
        if not isinstance(narrow, AnyFloat) or not isinstance(wide, AnyFloat):
            break
        if narrow.bitwidth > wide.bitwidth:
            break
        value = op.inputs[0]
    return value


def count(value: SSAValue) -> int:
    """How many elements a tensor has."""
    return prod(shape_of(value))
