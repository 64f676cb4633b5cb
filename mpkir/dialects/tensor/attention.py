"""Attention and what surrounds it: rotary embedding, cache append, split and merged forms.

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
    f32,
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


class _CachedAttention(IRDLOperation):
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


_OPERANDS = (
    "$q `,` $k `,` $v `cache` $k_cache `,` $v_cache `at` $position "
    "(`q_prologue` $q_prologue^)? (`with` $q_args^ `:` type($q_args))? "
    "(`k_prologue` $k_prologue^)? (`with` $k_args^ `:` type($k_args))? "
    "`scale` $scale (`window` $window^)? (`soft_cap` $soft_cap^)? "
)
_OPERAND_TYPES = (
    "attr-dict `:` `(` type($q) `,` type($k) `,` type($v) `,` type($k_cache) `,` "
    "type($v_cache) `,` type($position) `)` `->` "
)


@irdl_op_definition
class AttentionOp(_CachedAttention):
    __doc__ = f"""Attention of a step's queries over a cache to which the step's keys and values are
    appended.

    Results: y [B, T, H, D] and both caches. {_CachedAttention.__doc__}"""

    name = "mpk_tensor.attention"

    result = result_def(TENSOR)
    k_result = result_def(TENSOR)
    v_result = result_def(TENSOR)

    assembly_format = _OPERANDS + _OPERAND_TYPES + "`(` type(results) `)`"

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


@irdl_op_definition
class AttentionSplitOp(_CachedAttention):
    __doc__ = f"""Attention over chunks of the cache, each by itself: flash decoding's first half.

    The caches are [B, KV, R, S, P, D]: P neighbouring positions are a block, and blocks are dealt
    to the S chunks in turn, so that every chunk has its share of a cache filled to any length: row
    (r, s, p) is position (r * chunks + s) * P + p. Results, all f32: acc [B, T, H, S, D], the sum
    of exp(score - top) * v, and stats [B, T, H, S, 2], (top, sum of exp(score - top)). A chunk of
    which no row is attended to gives (0, -inf, 0); where all its rows lie behind the step's last
    position, acc is left as it is. `first` chunks (0 or 1) are left to who joins the others: there
    is no acc and no stats of them. A tile has caches cut to its chunks; `origin` (tensor<1xi64>) is
    the number of its first chunk behind those, `chunks` how many there are in all.

    {_CachedAttention.__doc__}
    """

    name = "mpk_tensor.attention_split"

    chunks = prop_def(IntegerAttr[I64])
    first = prop_def(IntegerAttr[I64], default_value=IntegerAttr(0, i64))
    origin = opt_operand_def(TENSOR)
    acc = result_def(TENSOR)
    stats = result_def(TENSOR)
    k_result = result_def(TENSOR)
    v_result = result_def(TENSOR)

    assembly_format = (
        "`chunks` $chunks (`first` $first^)? (`origin` $origin^ `:` type($origin))? "
        + _OPERANDS
        + _OPERAND_TYPES
        + "`(` type(results) `)`"
    )

    def __init__(
        self, attention: _CachedAttention, k_cache: SSAValue, v_cache: SSAValue, first: int = 0
    ):
        """The split form of an attention, its regions moved here by cloning; caches in blocks."""
        q, chunks = shape_of(attention.q), shape_of(k_cache)[3]
        super().__init__(
            operands=[
                None,
                *attention.operands_with(k_cache, v_cache),
            ],
            properties={
                **attention.score_properties,
                "chunks": IntegerAttr(chunks, i64),
                "first": IntegerAttr(first, i64),
            },
            regions=attention.copied_prologues(),
            result_types=[
                TensorType(f32, [*q[:3], chunks - first, q[3]]),
                TensorType(f32, [*q[:3], chunks - first, 2]),
                k_cache.type,
                v_cache.type,
            ],
        )

    @property
    def block(self) -> int:
        """Neighbouring positions of one chunk."""
        return shape_of(self.k_cache)[4]

    def verify_(self) -> None:
        self.verify_operands(cache_rank=6)
        q, splits = shape_of(self.q), shape_of(self.k_cache)[3]
        if splits > self.chunks.value.data or (
            self.origin is None and splits != self.chunks.value.data
        ):
            raise VerifyException(
                f"{self.chunks.value.data} chunks, {splits} in {self.k_cache.type}"
            )
        if self.first.value.data not in (0, 1):
            raise VerifyException(f"{self.first.value.data} chunks are left to others, not 0 or 1")
        parts = splits - (self.first.value.data if self.origin is None else 0)
        if shape_of(self.acc) != (*q[:3], parts, q[3]):
            raise VerifyException(f"{parts} chunks do not give {self.acc.type}")
        if shape_of(self.stats) != (*q[:3], parts, 2):
            raise VerifyException(f"{parts} chunks do not give {self.stats.type}")


@irdl_op_definition
class AttentionJoinOp(_CachedAttention):
    __doc__ = f"""Attention over the first chunk of the cache, joined with the others: the second
    half of flash decoding by who has a chunk of its own.

    The caches are [B, KV, R, S, P, D] as in attention_split; only rows of chunk 0 are looked at or
    written, so a tile may have no other. acc: f32 [B, T, H, S - 1, D], stats: f32 [B, T, H, S - 1,
    2], of the other chunks; chunk s begins with position s * P: where that is behind the step's
    last, nobody looks at its acc. Results: y [B, T, H, D] and both caches.

    {_CachedAttention.__doc__}
    """

    name = "mpk_tensor.attention_join"

    chunks = prop_def(IntegerAttr[I64])
    acc = operand_def(TENSOR)
    stats = operand_def(TENSOR)
    result = result_def(TENSOR)
    k_result = result_def(TENSOR)
    v_result = result_def(TENSOR)

    assembly_format = (
        "`chunks` $chunks `joins` $acc `,` $stats `:` type($acc) `,` type($stats) `to` "
        + _OPERANDS
        + _OPERAND_TYPES
        + "`(` type(results) `)`"
    )

    def __init__(self, attention: _CachedAttention, split: AttentionSplitOp, element: Attribute):
        """What is left of an attention whose other chunks are split off."""
        super().__init__(
            operands=[
                split.acc,
                split.stats,
                *attention.operands_with(split.k_result, split.v_result),
            ],
            properties={
                **attention.score_properties,
                "chunks": split.chunks,
            },
            regions=attention.copied_prologues(),
            result_types=[
                TensorType(element, shape_of(attention.q)),
                split.k_result.type,
                split.v_result.type,
            ],
        )

    @property
    def block(self) -> int:
        """Neighbouring positions of one chunk."""
        return shape_of(self.k_cache)[4]

    def verify_(self) -> None:
        self.verify_operands(cache_rank=6)
        q, splits, chunks = shape_of(self.q), shape_of(self.k_cache)[3], self.chunks.value.data
        if splits not in (1, chunks):
            raise VerifyException(f"{chunks} chunks, {splits} in {self.k_cache.type}")
        if shape_of(self.acc) != (*q[:3], chunks - 1, q[3]):
            raise VerifyException(f"cannot join {self.acc.type} to the first of {chunks} chunks")
        if shape_of(self.stats) != (*q[:3], chunks - 1, 2):
            raise VerifyException(f"cannot join {self.stats.type} to the first of {chunks} chunks")
        if shape_of(self.result) != q:
            raise VerifyException(
                f"attention of {self.q.type} gives its shape, not {self.result.type}"
            )


@irdl_op_definition
class AttentionMergeOp(IRDLOperation):
    """Joins the chunks of a split attention: flash decoding's second half.

    acc: f32 [B, T, H, S, D]; stats: f32 [B, T, H, S, 2]; position: i64 [T]; result: [B, T, H, D].
    Chunk s begins with position s * block: where that is behind the step's last, nobody looks at
    its acc.
    """

    name = "mpk_tensor.attention_merge"

    acc = operand_def(TENSOR)
    stats = operand_def(TENSOR)
    position = operand_def(TENSOR)
    block = prop_def(IntegerAttr[I64])
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = (
        "`block` $block $acc `,` $stats `at` $position attr-dict "
        "`:` functional-type(operands, results)"
    )

    def __init__(
        self,
        acc: SSAValue,
        stats: SSAValue,
        position: SSAValue,
        block: int,
        element_type: Attribute,
    ):
        shape = shape_of(acc)
        super().__init__(
            operands=[acc, stats, position],
            properties={"block": IntegerAttr(block, i64)},
            result_types=[TensorType(element_type, [*shape[:3], shape[4]])],
        )

    def verify_(self) -> None:
        acc = shape_of(self.acc)
        if len(acc) != 5 or shape_of(self.stats) != (*acc[:4], 2):
            raise VerifyException(f"cannot merge {self.acc.type} and {self.stats.type}")
        if shape_of(self.position) != acc[1:2]:
            raise VerifyException(f"merge of {self.acc.type} at {self.position.type}")
        if shape_of(self.result) != (*acc[:3], acc[4]):
            raise VerifyException(f"merge of {self.acc.type} does not give {self.result.type}")


OPS = (
    SdpaOp,
    CacheAppendOp,
    RotaryOp,
    AttentionOp,
    AttentionSplitOp,
    AttentionJoinOp,
    AttentionMergeOp,
)
__all__ = [
    "OPS",
    "AttentionJoinOp",
    "AttentionMergeOp",
    "AttentionOp",
    "AttentionSplitOp",
    "CacheAppendOp",
    "RotaryOp",
    "SdpaOp",
]
