"""Values behind views and roundings that leave every element in its row-major place."""

from __future__ import annotations

from xdsl.dialects.builtin import AnyFloat
from xdsl.ir import SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from mpkir.dialects import tensor
from mpkir.dialects.tensor import element_type_of, shape_of
from mpkir.passes.raising.scalar_forms import elementwise, form_of


def through_reshapes(value: SSAValue) -> SSAValue:
    """The value of which this is another shape."""
    while isinstance(value.owner, tensor.ReshapeOp):
        value = value.owner.source
    return value


def through_reshapes_and_roundings(value: SSAValue) -> SSAValue:
    """The value before reshapes and conversions between float types."""
    while True:
        value = through_reshapes(value)
        op = elementwise(value)
        if op is None or form_of(op) != ("arg", 0) or shape_of(op.inputs[0]) != shape_of(value):
            return value
        if not isinstance(element_type_of(op.inputs[0]), AnyFloat):
            return value
        if not isinstance(element_type_of(value), AnyFloat):
            return value
        value = op.inputs[0]


class ReshapeBehindLinear(RewritePattern):
    """A linear of reshaped rows is a reshape of the linear: its rows keep their order.

    What the rows come from, a norm perhaps, is then read by the linear itself.
    """

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.LinearOp, rewriter: PatternRewriter, /) -> None:
        source = through_reshapes(op.x)
        if source is op.x or shape_of(source)[-1:] != shape_of(op.x)[-1:]:
            return
        if op.prologue is not None or any(shape_of(v)[:-1] for v in op.epilogue_args):
            return
        epilogue = None if op.epilogue is None else op.epilogue.clone()
        moved = op.like(
            source,
            element_type_of(op.result),
            epilogue=epilogue,
            epilogue_args=op.epilogue_args,
        )
        moved.location = op.location
        rewriter.replace(op, [moved, tensor.ReshapeOp(moved.result, shape_of(op.result))])


class ReshapeBehindTopk(RewritePattern):
    """A topk of reshaped rows gives reshaped results."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.TopkOp, rewriter: PatternRewriter, /) -> None:
        source = through_reshapes(op.x)
        if source is op.x or shape_of(source)[-1:] != shape_of(op.x)[-1:]:
            return
        moved = tensor.TopkOp(source, op.k, element_type_of(op.values), op.scores.data)
        moved.location = op.location
        back = [tensor.ReshapeOp(v, shape_of(op.values)) for v in (moved.values, moved.indices)]
        rewriter.replace(op, [moved, *back], [each.result for each in back])


class ReshapeBeforeConversion(RewritePattern):
    """A reshape of converted elements is a conversion of reshaped ones.

    Then a product, a conversion and an addition stand together, and become one operator.
    """

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.ReshapeOp, rewriter: PatternRewriter, /) -> None:
        conversion = elementwise(op.source)
        if conversion is None or form_of(conversion) != ("arg", 0):
            return
        (source,) = conversion.inputs
        if not op.source.has_one_use() or shape_of(source) != shape_of(op.source):
            return
        moved = tensor.ReshapeOp(source, shape_of(op.result))
        converted = tensor.ElementwiseOp([moved.result], conversion.body.clone(), op.result.type)
        converted.location = conversion.location
        rewriter.replace(op, [moved, converted])
