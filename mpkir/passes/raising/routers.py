"""The router of a mixture of experts: a topk that gives the softmax of what it chose."""

from __future__ import annotations

from xdsl.ir import Operation, SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern
from xdsl.rewriter import InsertPoint

from mpkir.dialects import tensor
from mpkir.dialects.tensor import ReductionKind, Scores, element_type_of, shape_of
from mpkir.passes.raising.scalar_forms import binary, through_widenings
from mpkir.passes.raising.views import through_reshapes_and_roundings


class RaiseTopkOfSoftmax(RewritePattern):
    """The largest of a softmax are the softmax of the largest: softmax keeps the order."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.TopkOp, rewriter: PatternRewriter, /) -> None:
        softmax = op.x.owner
        if op.scores.data is not Scores.RAW or not isinstance(softmax, tensor.SoftmaxOp):
            return
        source = through_widenings(softmax.x)
        new = tensor.TopkOp(source, op.k, element_type_of(op.values), Scores.SOFTMAX)
        new.location = op.location
        rewriter.replace(op, new)


class RaiseSoftmaxOfChosen(RewritePattern):
    """A softmax divided by its sum over the chosen is their softmax among themselves.

    So is the softmax of chosen elements that no softmax preceded.
    """

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.TopkOp, rewriter: PatternRewriter, /) -> None:
        users = {use.operation: None for use in op.values.uses}
        if op.scores.data is Scores.SOFTMAX:
            last, others = _division_by_sum(op.values, list(users))
        elif op.scores.data is Scores.RAW and len(users) == 1:
            last, others = _softmax_of(next(iter(users))), []
        else:
            return
        if last is None:
            return
        result = last.results[0]
        new = tensor.TopkOp(op.x, op.k, element_type_of(result), Scores.SOFTMAX_OF_CHOSEN)
        new.location = op.location
        rewriter.insert(new, InsertPoint.before(op))
        rewriter.replace(last, (), (new.values,))
        for other in others:
            rewriter.erase(other)
        rewriter.replace(op, (), (None, new.indices))


def _division_by_sum(
    values: SSAValue, users: list[Operation]
) -> tuple[Operation | None, list[Operation]]:
    """The op that gives values / sum(values) along the last dimension, and the ops of the sum.

    No op if something else reads the values, too.
    """
    sums = [op for op in users if isinstance(op, tensor.ReduceOp)]
    quotients = [op for op in users if isinstance(op, tensor.ElementwiseOp)]
    if len(users) != 2 or len(sums) != 1 or len(quotients) != 1:
        return None, []
    total, quotient = sums[0], quotients[0]
    last = len(shape_of(values)) - 1
    if total.kind.data is not ReductionKind.SUM or total.dims.get_values() != (last,):
        return None, []
    factors = binary(quotient.result, "arith.divf")
    if factors is None or factors[0] is not values or factors[1] is not total.result:
        return None, []
    if not total.result.has_one_use() or shape_of(quotient.result) != shape_of(values):
        return None, []
    return quotient, [total]


def _softmax_of(user: Operation) -> Operation | None:
    """The softmax that is all that a user of a value is for, perhaps after a conversion."""
    if isinstance(user, tensor.SoftmaxOp):
        return user
    if not isinstance(user, tensor.ElementwiseOp) or not user.result.has_one_use():
        return None
    (use,) = user.result.uses
    if not isinstance(use.operation, tensor.SoftmaxOp):
        return None
    converted = through_reshapes_and_roundings(user.result)
    return use.operation if isinstance(converted.owner, tensor.TopkOp) else None
