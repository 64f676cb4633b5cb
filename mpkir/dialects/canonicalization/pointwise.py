"""Canonical elementwise operators: each operand once and needed, constants inside, copies gone."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects import arith
from xdsl.dialects.builtin import AnyFloat, FloatAttr, IntegerAttr
from xdsl.ir import SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern
from xdsl.utils.hints import isa

from mpkir.dialects.canonicalization.replacing import replace_by
from mpkir.dialects.tensor.pointwise import ElementwiseOp
from mpkir.dialects.tensor.program import FullOp, YieldOp, element_type_of, shape_of
from mpkir.dialects.tensor.views import BroadcastOp

_Number = FloatAttr[AnyFloat] | IntegerAttr


def _yielded(op: ElementwiseOp) -> SSAValue:
    last = op.body.block.last_op
    assert isinstance(last, YieldOp)
    return last.arguments[0]


def _rebuild(op: ElementwiseOp, inputs: Sequence[SSAValue], rewriter: PatternRewriter) -> None:
    """The same region on other operands; its arguments have been made to fit them."""
    replace_by(op, ElementwiseOp(inputs, op.detach_region(op.body), op.result.type), rewriter)


class ReadThroughBroadcast(RewritePattern):
    """An elementwise op broadcasts by itself."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ElementwiseOp, rewriter: PatternRewriter, /) -> None:
        inputs = [v.owner.source if isinstance(v.owner, BroadcastOp) else v for v in op.inputs]
        if inputs != list(op.inputs):
            _rebuild(op, inputs, rewriter)


class DropUnusedOperands(RewritePattern):
    """An operand that the region does not read goes."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ElementwiseOp, rewriter: PatternRewriter, /) -> None:
        block = op.body.block
        unused = [arg for arg in block.args if arg.first_use is None]
        if not unused:
            return
        inputs = [v for v, arg in zip(op.inputs, block.args, strict=True) if arg not in unused]
        for arg in unused:
            rewriter.erase_block_argument(arg)
        _rebuild(op, inputs, rewriter)


class JoinEqualOperands(RewritePattern):
    """An operand given twice is read through one argument; the other becomes unused."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ElementwiseOp, rewriter: PatternRewriter, /) -> None:
        first: dict[SSAValue, SSAValue] = {}
        for value, arg in zip(op.inputs, op.body.block.args, strict=True):
            other = first.setdefault(value, arg)
            if other is not arg and arg.first_use is not None:
                rewriter.replace_all_uses_with(arg, other)


class ConstantOperand(RewritePattern):
    """One value everywhere becomes a constant in the region; its operand becomes unused."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ElementwiseOp, rewriter: PatternRewriter, /) -> None:
        block = op.body.block
        for value, arg in zip(op.inputs, block.args, strict=True):
            full = value.owner
            if not isinstance(full, FullOp) or arg.first_use is None:
                continue
            attribute = full.value
            if not isa(attribute, _Number) or attribute.type != arg.type:
                continue
            constant = arith.ConstantOp(attribute)
            assert block.first_op is not None
            block.insert_op_before(constant, block.first_op)
            rewriter.replace_all_uses_with(arg, constant.result)


class DropIdentity(RewritePattern):
    """A region that yields an argument copies or broadcasts; one that yields a constant fills."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ElementwiseOp, rewriter: PatternRewriter, /) -> None:
        value = _yielded(op)
        if isinstance(constant := value.owner, arith.ConstantOp):
            replace_by(op, FullOp(constant.value, op.result.type), rewriter)
            return
        for source, arg in zip(op.inputs, op.body.block.args, strict=True):
            if arg is not value or element_type_of(source) != element_type_of(op.result):
                continue
            if shape_of(source) == shape_of(op.result):
                rewriter.replace(op, (), (source,))
            else:
                replace_by(op, BroadcastOp(source, shape_of(op.result)), rewriter)


class DropWidenedAndNarrowed(RewritePattern):
    """Widening a float and narrowing it again gives it back."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ElementwiseOp, rewriter: PatternRewriter, /) -> None:
        for narrow in op.body.block.ops:
            if not isinstance(narrow, arith.TruncFOp):
                continue
            wide = narrow.input.owner
            if isinstance(wide, arith.ExtFOp) and wide.input.type == narrow.result.type:
                rewriter.replace(narrow, (), (wide.input,))


ELEMENTWISE = (
    ReadThroughBroadcast(),
    JoinEqualOperands(),
    ConstantOperand(),
    DropUnusedOperands(),
    DropWidenedAndNarrowed(),
    DropIdentity(),
)
