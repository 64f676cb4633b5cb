"""Attention over chunks of a cache and who joins them: flash decoding, in two halves."""

from __future__ import annotations

from xdsl.dialects.builtin import I64, IntegerAttr, TensorType, f32, i64
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from mpkir.dialects.tensor.attention import OPERAND_TYPES, OPERANDS, CachedAttention
from mpkir.dialects.tensor.program import TENSOR, shape_of


@irdl_op_definition
class AttentionSplitOp(CachedAttention):
    __doc__ = f"""Attention over chunks of the cache, each by itself: flash decoding's first half.

    The caches are [B, KV, R, S, P, D]: P neighbouring positions are a block, and blocks are dealt
    to the S chunks in turn, so that every chunk has its share of a cache filled to any length: row
    (r, s, p) is position (r * chunks + s) * P + p. Results, all f32: acc [B, T, H, S, D], the sum
    of exp(score - top) * v, and stats [B, T, H, S, 2], (top, sum of exp(score - top)). A chunk of
    which no row is attended to gives (0, -inf, 0); where all its rows lie behind the step's last
    position, acc is left as it is. `first` chunks (0 or 1) are left to who joins the others: there
    is no acc and no stats of them. A tile has caches cut to its chunks; `origin` (tensor<1xi64>) is
    the number of its first chunk behind those, `chunks` how many there are in all.

    {CachedAttention.__doc__}
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
        + OPERANDS
        + OPERAND_TYPES
        + "`(` type(results) `)`"
    )

    def __init__(
        self, attention: CachedAttention, k_cache: SSAValue, v_cache: SSAValue, first: int = 0
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
class AttentionJoinOp(CachedAttention):
    __doc__ = f"""Attention over the first chunk of the cache, joined with the others: the second
    half of flash decoding by who has a chunk of its own.

    The caches are [B, KV, R, S, P, D] as in attention_split; only rows of chunk 0 are looked at or
    written, so a tile may have no other. acc: f32 [B, T, H, S - 1, D], stats: f32 [B, T, H, S - 1,
    2], of the other chunks; chunk s begins with position s * P: where that is behind the step's
    last, nobody looks at its acc. Results: y [B, T, H, D] and both caches.

    {CachedAttention.__doc__}
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
        + OPERANDS
        + OPERAND_TYPES
        + "`(` type(results) `)`"
    )

    def __init__(self, attention: CachedAttention, split: AttentionSplitOp, element: Attribute):
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


OPS = (AttentionSplitOp, AttentionJoinOp, AttentionMergeOp)
__all__ = ["OPS", "AttentionJoinOp", "AttentionMergeOp", "AttentionSplitOp"]
