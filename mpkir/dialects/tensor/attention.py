"""Attention, as PyTorch has it and over a cache.

Layouts: queries, keys, values of the step are token-major [B, T, heads, D], as linear layers write
them; caches are head-major [B, KV, C, D], as they are read. B = 1 in a decode step of one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import (
    I64,
    Float64Type,
    FloatAttr,
    IntegerAttr,
    TensorType,
    UnitAttr,
    f64,
    i64,
)
from xdsl.ir import Attribute, Region, SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    AttrSizedRegionSegments,
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    opt_region_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from mpkir.dialects.tensor.products import verify_prologue
from mpkir.dialects.tensor.program import TENSOR, element_type_of, shape_of


@irdl_op_definition
class SdpaOp(IRDLOperation):
    """PyTorch's scaled_dot_product_attention, head-major, before raising.

    q: [B, H, T, D]; k, v: [B, H or KV, L, D] (KV divides H: grouped queries); mask: bool or float,
    broadcasts to [B, H, T, L]; result: [B, H, T, D]. `causal` masks j > i.
    """

    name = "mpk_tensor.sdpa"

    q = operand_def(TENSOR)
    k = operand_def(TENSOR)
    v = operand_def(TENSOR)
    mask = opt_operand_def(TENSOR)
    scale = prop_def(FloatAttr[Float64Type])
    causal = opt_prop_def(UnitAttr)
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = (
        "(`causal` $causal^)? $q `,` $k `,` $v (`mask` $mask^)? `scale` $scale attr-dict "
        "`:` functional-type(operands, results)"
    )

    def __init__(
        self,
        q: SSAValue,
        k: SSAValue,
        v: SSAValue,
        mask: SSAValue | None,
        scale: float,
        causal: bool = False,
    ):
        super().__init__(
            operands=[q, k, v, mask],
            properties={"scale": FloatAttr(scale, f64), "causal": UnitAttr() if causal else None},
            result_types=[q.type],
        )

    def verify_(self) -> None:
        q, k, v = shape_of(self.q), shape_of(self.k), shape_of(self.v)
        if len(q) != 4 or k != v or len(k) != 4 or q[0] != k[0] or q[3] != k[3] or q[1] % k[1]:
            raise VerifyException(f"attention of {self.q.type}, {self.k.type}, {self.v.type}")
        if shape_of(self.result) != q:
            raise VerifyException(f"sdpa of {self.q.type} does not give {self.result.type}")


class CachedAttention(IRDLOperation):
    """Operands that whole and split attention share.

    q: [B, T, H, D]; k, v: [B, T, KV, D], the step's own; caches: [B, KV, C, D]; position: i64 [T].
    `q_prologue` and `k_prologue` are regions of tensor ops (head norm, rotary) on q and k. The
    step's keys and values are appended at `position`; query t attends to cache rows j <=
    position[t] and, with a window, j > position[t] - window. Scores are `scale * q.k`, then
    `soft_cap * tanh(score / soft_cap)` if given.
    """

    q = operand_def(TENSOR)
    k = operand_def(TENSOR)
    v = operand_def(TENSOR)
    k_cache = operand_def(TENSOR)
    v_cache = operand_def(TENSOR)
    position = operand_def(TENSOR)
    q_args = var_operand_def(TENSOR)
    k_args = var_operand_def(TENSOR)
    scale = prop_def(FloatAttr[Float64Type])
    window = opt_prop_def(IntegerAttr[I64])
    soft_cap = opt_prop_def(FloatAttr[Float64Type])
    q_prologue = opt_region_def("single_block")
    k_prologue = opt_region_def("single_block")

    irdl_options = (
        AttrSizedOperandSegments(as_property=True),
        AttrSizedRegionSegments(as_property=True),
    )
    traits = traits_def(Pure())

    @property
    def score_properties(self) -> dict[str, Attribute | None]:
        """The properties that say what scores are."""
        return {"scale": self.scale, "window": self.window, "soft_cap": self.soft_cap}

    def operands_with(
        self, k_cache: SSAValue, v_cache: SSAValue
    ) -> list[SSAValue | Sequence[SSAValue]]:
        """The operands in the order of their definitions, with other caches."""
        inputs = [self.q, self.k, self.v, k_cache, v_cache, self.position]
        return [*inputs, self.q_args, self.k_args]

    def copied_prologues(self) -> list[list[Region]]:
        """Copies of both prologues, none for one that is not there."""
        prologues = (self.q_prologue, self.k_prologue)
        return [[] if each is None else [each.clone()] for each in prologues]

    def verify_operands(self, cache_rank: int = 4) -> None:
        q, k, cache = shape_of(self.q), shape_of(self.k), shape_of(self.k_cache)
        if len(q) != 4 or len(k) != 4:
            raise VerifyException(f"{self.name} operands have rank 4")
        if len(cache) != cache_rank:
            raise VerifyException(f"{self.name} caches have rank {cache_rank}")
        if shape_of(self.v) != k or shape_of(self.v_cache) != cache:
            raise VerifyException(f"{self.name} keys and values have the same shapes")
        if k != (q[0], q[1], cache[1], q[3]) or cache[0] != q[0] or cache[-1] != q[3]:
            raise VerifyException(
                f"{self.name} of {self.q.type}, {self.k.type}, {self.k_cache.type}"
            )
        if q[2] % k[2]:
            raise VerifyException(f"{q[2]} query heads are no multiple of {k[2]} key heads")
        if self.q_prologue is not None:
            verify_prologue("q_prologue", self.q_prologue, self.q, self.q_args)
        if self.k_prologue is not None:
            verify_prologue("k_prologue", self.k_prologue, self.k, self.k_args)


OPERANDS = (
    "$q `,` $k `,` $v `cache` $k_cache `,` $v_cache `at` $position "
    "(`q_prologue` $q_prologue^)? (`with` $q_args^ `:` type($q_args))? "
    "(`k_prologue` $k_prologue^)? (`with` $k_args^ `:` type($k_args))? "
    "`scale` $scale (`window` $window^)? (`soft_cap` $soft_cap^)? "
)
"""Assembly format of what they share, .."""

OPERAND_TYPES = (
    "attr-dict `:` `(` type($q) `,` type($k) `,` type($v) `,` type($k_cache) `,` "
    "type($v_cache) `,` type($position) `)` `->` "
)
""".. and of its types, up to those of the results."""


@irdl_op_definition
class AttentionOp(CachedAttention):
    __doc__ = f"""Attention of a step's queries over a cache to which the step's keys and values are
    appended.

    Results: y [B, T, H, D] and both caches. {CachedAttention.__doc__}"""

    name = "mpk_tensor.attention"

    result = result_def(TENSOR)
    k_result = result_def(TENSOR)
    v_result = result_def(TENSOR)

    assembly_format = OPERANDS + OPERAND_TYPES + "`(` type(results) `)`"

    def __init__(
        self,
        q: SSAValue,
        k: SSAValue,
        v: SSAValue,
        k_cache: SSAValue,
        v_cache: SSAValue,
        position: SSAValue,
        scale: float,
        *,
        window: int | None = None,
        soft_cap: float | None = None,
        q_prologue: Region | None = None,
        q_args: Sequence[SSAValue] = (),
        k_prologue: Region | None = None,
        k_args: Sequence[SSAValue] = (),
        element_type: Attribute | None = None,
    ):
        super().__init__(
            operands=[q, k, v, k_cache, v_cache, position, q_args, k_args],
            properties={
                "scale": FloatAttr(scale, f64),
                "window": None if window is None else IntegerAttr(window, i64),
                "soft_cap": None if soft_cap is None else FloatAttr(soft_cap, f64),
            },
            regions=[
                [] if q_prologue is None else [q_prologue],
                [] if k_prologue is None else [k_prologue],
            ],
            result_types=[
                TensorType(element_type or element_type_of(q), shape_of(q)),
                k_cache.type,
                v_cache.type,
            ],
        )

    def verify_(self) -> None:
        self.verify_operands()
        if shape_of(self.result) != shape_of(self.q):
            raise VerifyException(
                f"attention of {self.q.type} gives its shape, not {self.result.type}"
            )


OPS = (SdpaOp, AttentionOp)
__all__ = ["OPERANDS", "OPERAND_TYPES", "OPS", "AttentionOp", "CachedAttention", "SdpaOp"]
