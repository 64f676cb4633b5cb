"""What a step does to its tokens because of where they stand: rotary embedding, cache append."""

from __future__ import annotations

from xdsl.dialects.builtin import Float64Type, FloatAttr, TensorType, UnitAttr, f64
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from mpkir.dialects.tensor.program import TENSOR, element_type_of, shape_of


@irdl_op_definition
class CacheAppendOp(IRDLOperation):
    """The cache with rows `position[t]` replaced: `result[b, h, position[t], d] = new[b, h, t, d]`.

    cache: [B, KV, C, D]; new: [B, KV, T, D]; position: i64 [T]. A position outside the cache is
    refused by the runtime.
    """

    name = "mpk_tensor.cache_append"

    cache = operand_def(TENSOR)
    new = operand_def(TENSOR)
    position = operand_def(TENSOR)
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = (
        "$cache `,` $new `at` $position attr-dict `:` functional-type(operands, results)"
    )

    def __init__(self, cache: SSAValue, new: SSAValue, position: SSAValue):
        super().__init__(operands=[cache, new, position], result_types=[cache.type])

    def verify_(self) -> None:
        cache, new = shape_of(self.cache), shape_of(self.new)
        if len(cache) != 4 or new != (*cache[:2], *shape_of(self.position), cache[3]):
            raise VerifyException(f"cannot append {self.new.type} to {self.cache.type}")
        if self.result.type != self.cache.type:
            raise VerifyException(f"{self.cache.type} does not become {self.result.type}")


@irdl_op_definition
class RotaryOp(IRDLOperation):
    """Rotary position embedding (arXiv 2104.09864) of the first R = 2 * len(inv_freq) of D
    dimensions.

    x: [B, T, heads, D]; position: i64 [T]; inv_freq: f32 [R / 2]. With angle a = position[t] *
    inv_freq[i], the pair (x_i, x_j) turns to scale * (x_i cos a - x_j sin a, x_j cos a + x_i sin
    a), where j = i + R / 2, or, `interleaved`, the pair is (2i, 2i + 1).
    """

    name = "mpk_tensor.rotary"

    x = operand_def(TENSOR)
    position = operand_def(TENSOR)
    inv_freq = operand_def(TENSOR)
    scale = prop_def(FloatAttr[Float64Type], default_value=FloatAttr(1.0, f64))
    interleaved = opt_prop_def(UnitAttr)
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = (
        "(`interleaved` $interleaved^)? $x `,` $position `,` $inv_freq (`scale` $scale^)? "
        "attr-dict `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        x: SSAValue,
        position: SSAValue,
        inv_freq: SSAValue,
        scale: float = 1.0,
        interleaved: bool = False,
        element_type: Attribute | None = None,
    ):
        super().__init__(
            operands=[x, position, inv_freq],
            properties={
                "scale": FloatAttr(scale, f64),
                "interleaved": UnitAttr() if interleaved else None,
            },
            result_types=[TensorType(element_type or element_type_of(x), shape_of(x))],
        )

    def verify_(self) -> None:
        x = shape_of(self.x)
        if len(x) != 4 or shape_of(self.position) != (x[1],) or shape_of(self.result) != x:
            raise VerifyException(f"rotary of {self.x.type} at {self.position.type}")
        if 2 * shape_of(self.inv_freq)[0] > x[3]:
            raise VerifyException(f"{self.inv_freq.type} turns more than {x[3]} dimensions")


OPS = (CacheAppendOp, RotaryOp)
__all__ = ["OPS", "CacheAppendOp", "RotaryOp"]
