"""Pointwise operators: one op, a region of scalar arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from xdsl.dialects.builtin import TensorType
from xdsl.interfaces import HasCanonicalizationPatternsInterface
from xdsl.ir import Attribute, Block, Region, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    irdl_op_definition,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.pattern_rewriter import RewritePattern
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from mpkir.dialects.tensor.program import TENSOR, YieldOp, element_type_of, shape_of


def broadcast_shape(*shapes: Sequence[int]) -> tuple[int, ...]:
    """NumPy's broadcast of shapes; ValueError where they do not fit."""
    return tuple(int(size) for size in np.broadcast_shapes(*map(tuple, shapes)))


def is_broadcast(result: Sequence[int], *shapes: Sequence[int]) -> bool:
    """Whether shapes broadcast, by NumPy's rules, to exactly `result`."""
    try:
        return broadcast_shape(*shapes) == tuple(result)
    except ValueError:
        return False


def verify_scalar_region(
    what: str, region: Region, arguments: Sequence[Attribute], result: Attribute
) -> None:
    """Check the signature of a region of scalar arithmetic: its arguments and its one yielded
    value.
    """
    block = region.block
    if [arg.type for arg in block.args] != list(arguments):
        found = ", ".join(str(arg.type) for arg in block.args)
        expected = ", ".join(str(type) for type in arguments)
        raise VerifyException(f"{what} has arguments ({found}) when they should be ({expected})")
    last = block.last_op
    if not isinstance(last, YieldOp) or [v.type for v in last.arguments] != [result]:
        raise VerifyException(f"{what} must yield one {result}")


@irdl_op_definition
class ElementwiseOp(IRDLOperation, HasCanonicalizationPatternsInterface):
    """Scalar arithmetic on corresponding elements of operands that broadcast to the result's shape.

    The region holds `arith` and `math` ops on scalars; one argument for each operand, of its
    element type.

    ```mlir
    %y = mpk_tensor.elementwise %a, %b {
    ^bb0(%0 : bf16, %1 : bf16):
      ...
      mpk_tensor.yield %2 : bf16
    } : (tensor<1x8xbf16>, tensor<8xbf16>) -> tensor<1x8xbf16>
    ```
    """

    name = "mpk_tensor.elementwise"

    inputs = var_operand_def(TENSOR)
    body = region_def("single_block")
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = "$inputs $body attr-dict `:` functional-type(operands, results)"

    def __init__(self, inputs: Sequence[SSAValue], body: Region | Block, result: Attribute):
        super().__init__(
            operands=[inputs],
            regions=[Region(body) if isinstance(body, Block) else body],
            result_types=[result],
        )

    @classmethod
    def get_canonicalization_patterns(cls) -> tuple[RewritePattern, ...]:
        from mpkir.dialects.canonicalization import pointwise

        return pointwise.ELEMENTWISE

    def verify_(self) -> None:
        assert isinstance(self.result.type, TensorType)
        shapes = [shape_of(v) for v in self.inputs]
        result = shape_of(self.result)
        if not is_broadcast(result, result, *shapes):
            raise VerifyException(f"operands of shapes {shapes} do not broadcast to {result}")
        verify_scalar_region(
            "elementwise region",
            self.body,
            [element_type_of(v) for v in self.inputs],
            self.result.type.get_element_type(),
        )


OPS = (ElementwiseOp,)
__all__ = ["ElementwiseOp", "broadcast_shape", "is_broadcast", "verify_scalar_region"]
