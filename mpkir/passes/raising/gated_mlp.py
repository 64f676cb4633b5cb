"""`act(gate(x)) * up(x)`: one product with two weights."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects import arith
from xdsl.dialects.builtin import f32
from xdsl.ir import Attribute, Block, Region, SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from mpkir.dialects import tensor
from mpkir.dialects.tensor import element_type_of, shape_of
from mpkir.passes.raising.scalar_forms import elementwise
from mpkir.passes.scalar_regions import drop_roundings, inline_scalars

Product = tensor.LinearOp | tensor.ExpertLinearOp
Side = tuple[Product, tensor.ElementwiseOp | None]


def _side(value: SSAValue) -> Side | None:
    """A linear layer that serves only this, with at most one elementwise op behind it."""
    activation = elementwise(value)
    if activation is not None:
        if len(activation.inputs) != 1 or not value.has_one_use():
            return None
        value = activation.inputs[0]
    linear = value.owner
    if not isinstance(linear, Product) or not value.has_one_use():
        return None
    if linear.prologue is not None or len(linear.weights) != 1:
        return None
    return linear, activation


def _read_the_same(first: Product, second: Product) -> bool:
    """Whether two products differ in their weights' rows only."""
    if first.x is not second.x or type(first) is not type(second):
        return False
    if isinstance(first, tensor.ExpertLinearOp) and isinstance(second, tensor.ExpertLinearOp):
        return first.experts is second.experts and first.scales is second.scales
    return True


def _joined(
    linears: Sequence[Product], type: Attribute, epilogue: Region, extra: Sequence[SSAValue]
) -> Product:
    """One product with the weights of all, and this epilogue on their sums."""
    weights = [linear.weights[0] for linear in linears]
    first = linears[0]
    if isinstance(first, tensor.LinearOp):
        return first.like(first.x, type, weights=weights, epilogue=epilogue, epilogue_args=extra)
    rows = [each.firsts[0] for each in linears if isinstance(each, tensor.ExpertLinearOp)]
    return first.like(
        first.x,
        type,
        weights=weights,
        first_rows=rows,
        epilogue=epilogue,
        epilogue_args=extra,
    )


def _rounded(value: SSAValue, type: Attribute, into: Block) -> SSAValue:
    if value.type == type:
        return value
    into.add_op(cast := arith.TruncFOp(value, type))
    return cast.result


class RaiseGatedMlp(RewritePattern):
    """An elementwise op of two linear layers on the same x, each perhaps activated."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.ElementwiseOp, rewriter: PatternRewriter, /) -> None:
        if len(op.inputs) != 2:
            return
        first, second = _side(op.inputs[0]), _side(op.inputs[1])
        if first is None or second is None or not _read_the_same(first[0], second[0]):
            return
        sides = (first, second)
        linears = [linear for linear, _ in sides]
        if len({shape_of(linear.weights[0]) for linear in linears}) != 1:
            return
        if shape_of(op.result) != shape_of(linears[0].result) or f32 in (
            element_type_of(linear.x) for linear in linears
        ):
            return
        extra = [value for linear in linears for value in linear.epilogue_args]
        block = Block(arg_types=[f32, f32, *(element_type_of(v) for v in extra)])
        rest = list(block.args[2:])
        values: list[SSAValue] = []
        for accumulator, (linear, activation) in zip(block.args[:2], sides, strict=True):
            value: SSAValue = accumulator
            if linear.epilogue is not None:
                taken = [rest.pop(0) for _ in linear.epilogue_args]
                value = inline_scalars(linear.epilogue.block, [value, *taken], block)
            value = _rounded(value, element_type_of(linear.result), block)
            if activation is not None:
                value = inline_scalars(activation.body.block, [value], block)
            values.append(value)
        block.add_op(tensor.YieldOp(inline_scalars(op.body.block, values, block)))
        drop_roundings(block)
        gated = _joined(linears, element_type_of(op.result), Region(block), extra)
        gated.location = op.location
        rewriter.replace(op, gated)
