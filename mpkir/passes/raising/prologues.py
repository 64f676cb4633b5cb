"""RMSNorms and rotary embeddings of queries and keys move into the attention that reads them."""

from __future__ import annotations

from xdsl.dialects.builtin import TensorType, f32
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from mpkir.dialects import tensor
from mpkir.dialects.tensor import shape_of


def _chain(value: SSAValue) -> tuple[SSAValue, list[Operation]]:
    """RMSNorms and rotary embeddings that lead to a value and serve nothing else, in order."""
    ops: list[Operation] = []
    while True:
        op = value.owner
        if not isinstance(op, tensor.RotaryOp | tensor.RmsNormOp):
            break
        if not value.has_one_use():
            break
        ops.insert(0, op)
        value = op.operands[0]
    return value, ops


def _region(source: SSAValue, ops: list[Operation]) -> tuple[Region, list[SSAValue]]:
    """The ops as a region on `source`, in f32 throughout, and the further operands it takes."""
    extra = list(dict.fromkeys(v for op in ops for v in op.operands[1:]))
    block = Block(arg_types=[source.type, *(v.type for v in extra)])
    mapper: dict[SSAValue, SSAValue] = dict(zip([source, *extra], block.args, strict=True))
    value: SSAValue = block.args[0]
    for op in ops:
        mapper[op.operands[0]] = value
        wide = type(op).create(
            operands=[mapper[v] for v in op.operands],
            result_types=[TensorType(f32, shape_of(op.results[0]))],
            properties=dict(op.properties),
            location=op.location,
        )
        block.add_op(wide)
        value = wide.results[0]
    block.add_op(tensor.YieldOp(value))
    return Region(block), extra


class MoveIntoAttention(RewritePattern):
    """Attention of rotated (and normalized) queries and keys gets a prologue for each."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.AttentionOp, rewriter: PatternRewriter, /) -> None:
        if op.q_prologue is not None or op.k_prologue is not None:
            return
        (q, q_ops), (k, k_ops) = _chain(op.q), _chain(op.k)
        if not q_ops and not k_ops:
            return
        q_region, q_args = _region(q, q_ops) if q_ops else (None, [])
        k_region, k_args = _region(k, k_ops) if k_ops else (None, [])
        new = tensor.AttentionOp(
            q,
            k,
            op.v,
            op.k_cache,
            op.v_cache,
            op.position,
            op.scale.value.data,
            window=None if op.window is None else op.window.value.data,
            soft_cap=None if op.soft_cap is None else op.soft_cap.value.data,
            q_prologue=q_region,
            q_args=q_args,
            k_prologue=k_region,
            k_args=k_args,
            element_type=tensor.element_type_of(op.result),
        )
        new.location = op.location
        rewriter.replace(op, new)
