"""How ATen operators become operators of the tensor dialect: one table, a file for each family."""

from mpkir.frontend.aten import (
    creation,
    indexing,
    pointwise,
    products,
    reductions,
    selection,
    states,
    views,
)
from mpkir.frontend.aten.registry import LOWERINGS, Lowering, register_lowering, tensor_type

FAMILIES = (creation, indexing, pointwise, products, reductions, selection, states, views)

__all__ = ["FAMILIES", "LOWERINGS", "Lowering", "register_lowering", "tensor_type"]
