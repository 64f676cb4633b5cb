"""Operators that choose elements by their size."""

from __future__ import annotations

import torch
from xdsl.ir import SSAValue

from mpkir.dialects import tensor
from mpkir.dialects.tensor import shape_of
from mpkir.frontend.aten.registry import HINTS, Lowering, Value, register_lowering

aten = torch.ops.aten


@register_lowering(aten.topk.default)
def topk(
    low: Lowering, x: SSAValue, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> Value:
    if dim % len(shape_of(x)) != len(shape_of(x)) - 1:
        low.fail("is supported along the last dimension only")
    if not largest:
        low.fail("chooses the smallest elements; the largest are supported")
    op = tensor.TopkOp(x, k)
    low.emit(op)
    return op.values, op.indices


HINTS.update(
    dict.fromkeys(
        (aten._grouped_mm.default, aten.histc.default, aten.sort.default),
        "if it groups tokens by expert, let the model gather the chosen experts' weights: "
        "model.set_experts_implementation('batched_mm') before torch.export",
    )
)
