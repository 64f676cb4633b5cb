"""Products: linear, matrix products, embedding, attention."""

from __future__ import annotations

from math import sqrt

import torch
from xdsl.dialects.builtin import TensorType, f32, i1
from xdsl.ir import Block, Region, SSAValue

from mpkir.dialects import tensor
from mpkir.dialects.tensor import element_type_of, shape_of
from mpkir.frontend.aten.registry import Lowering, register_lowering
from mpkir.frontend.aten.scalars import Scalars

aten = torch.ops.aten


@register_lowering(aten.linear.default)
def linear(low: Lowering, x: SSAValue, weight: SSAValue, bias: SSAValue | None = None) -> SSAValue:
    if len(shape_of(weight)) != 2:
        low.fail("has a weight that is no matrix")
    rows = low.reshape(x, (1, *shape_of(x))) if len(shape_of(x)) == 1 else x
    if bias is None:
        return low.reshape(low.emit(tensor.LinearOp(rows, [weight], low.element)), low.shape)
    block = Block(arg_types=[f32, element_type_of(bias)])
    scalars = Scalars(block)
    total = scalars.add(block.args[0], scalars.convert(block.args[1], f32))
    block.add_op(tensor.YieldOp(scalars.convert(total, low.element)))
    op = tensor.LinearOp(rows, [weight], low.element, epilogue=Region(block), epilogue_args=[bias])
    return low.reshape(low.emit(op), low.shape)


@register_lowering(aten.matmul.default, aten.mm.default, aten.bmm.default)
def matmul(low: Lowering, a: SSAValue, b: SSAValue) -> SSAValue:
    if len(shape_of(a)) == 1:
        a = low.reshape(a, (1, *shape_of(a)))
    if len(shape_of(b)) == 1:
        b = low.reshape(b, (*shape_of(b), 1))
    return low.reshape(low.emit(tensor.MatmulOp(a, b)), low.shape)


@register_lowering(aten.addmm.default, aten.baddbmm.default)
def addmm(
    low: Lowering, bias: SSAValue, a: SSAValue, b: SSAValue, *, beta: float = 1, alpha: float = 1
) -> SSAValue:
    product = low.emit(tensor.MatmulOp(a, b))

    def body(s: Scalars, x: SSAValue, y: SSAValue) -> SSAValue:
        x = x if beta == 1 else s.mul(x, s.constant(beta, x.type))
        y = y if alpha == 1 else s.mul(y, s.constant(alpha, y.type))
        return s.add(x, y)

    return low.pointwise([bias, product], body)


@register_lowering(aten.embedding.default)
def embedding(
    low: Lowering,
    weight: SSAValue,
    indices: SSAValue,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> SSAValue:
    return low.emit(tensor.EmbeddingOp(weight, indices))


@register_lowering(aten.scaled_dot_product_attention.default)
def attention(
    low: Lowering,
    q: SSAValue,
    k: SSAValue,
    v: SSAValue,
    attn_mask: SSAValue | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> SSAValue:
    if dropout_p:
        low.fail("drops elements at random", "export the model in eval() mode")
    if shape_of(k) != shape_of(v):
        return _attention_by_products(low, q, k, v, attn_mask, is_causal, scale)
    if not 2 <= len(shape_of(q)) <= 4 or len(shape_of(q)) != len(shape_of(k)):
        low.fail("is supported for ranks 2 to 4")
    lead = (1,) * (4 - len(shape_of(q)))
    q, k, v = (low.reshape(t, (*lead, *shape_of(t))) for t in (q, k, v))
    scale = 1 / sqrt(shape_of(q)[-1]) if scale is None else scale
    op = tensor.SdpaOp(q, k, v, attn_mask, scale, is_causal)
    return low.reshape(low.emit(op), low.shape)


def _attention_by_products(
    low: Lowering,
    q: SSAValue,
    k: SSAValue,
    v: SSAValue,
    mask: SSAValue | None,
    causal: bool,
    scale: float | None,
) -> SSAValue:
    """Attention with keys and values of different sizes (of latents): softmax(q k^T + mask) v."""
    *lead, rows, size = shape_of(q)
    if shape_of(k)[:-1] != shape_of(v)[:-1] or list(shape_of(k)[:-2]) != lead or causal:
        low.fail("has keys and values of different shapes")
    *order, i, j = range(len(shape_of(k)))
    turned = low.emit(tensor.TransposeOp(k, [*order, j, i]))
    product = low.emit(tensor.MatmulOp(q, turned))
    factor = 1 / sqrt(size) if scale is None else scale

    def score(s: Scalars, x: SSAValue, y: SSAValue | None = None) -> SSAValue:
        x = s.mul(s.convert(x, f32), s.constant(factor, f32))
        if y is None:
            return x
        if y.type == i1:
            return s.select(y, x, s.constant(float("-inf"), f32))
        return s.add(x, s.convert(y, f32))

    operands = [product] if mask is None else [product, mask]
    block = Block(arg_types=[element_type_of(value) for value in operands])
    scalars = Scalars(block)
    block.add_op(tensor.YieldOp(score(scalars, *block.args)))
    type = TensorType(f32, [*lead, rows, shape_of(k)[-2]])
    scores = low.emit(tensor.ElementwiseOp(operands, Region(block), type))
    weights = low.emit(tensor.SoftmaxOp(scores, low.element))
    return low.emit(tensor.MatmulOp(weights, v))
