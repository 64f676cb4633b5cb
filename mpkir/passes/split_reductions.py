"""split-reductions: cut reductions that one worker would do alone into parts and a merge.

Attention over a long cache becomes attention over chunks of it and a merge (flash decoding); argmax
over the vocabulary becomes partial argmaxes and a merge, to which appending the chosen token is
folded. Where ranks gather their parts of a row for an argmax, each finds candidates in its own and
they gather only those.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import BFloat16Type, Float16Type, Float32Type, ModuleOp
from xdsl.ir import Operation
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import (
    GreedyRewritePatternApplier,
    PatternRewriter,
    PatternRewriteWalker,
    RewritePattern,
    op_type_rewrite_pattern,
)
from xdsl.transforms.dead_code_elimination import dce

from mpkir.dialects import tensor
from mpkir.passes.tiling.limits import bytes_of

LEAST_BLOCK = 16
"""Neighbouring cache rows that are worth a task of their own."""

LEAST_JOINED = 32
"""Columns of a head that the first chunk's task joins with the others' at once."""

ARGMAX_ALIGNMENT = 64
"""Parts of a long row begin at multiples of so many elements: readers use vectors."""


def blocks_of(capacity: int, block: int, chunks: int, least: int = LEAST_BLOCK) -> tuple[int, int]:
    """How a cache of so many rows is dealt out: rows of a block, and to how many chunks.

    At least `least` and at most `block` and `chunks`; equal shares, so both divide what there is.
    As many chunks as possible, then blocks as large as possible; one chunk if there is no way to
    share.
    """
    best = (capacity, 1)
    for size in range(least, min(block, capacity) + 1):
        if capacity % size:
            continue
        count = capacity // size
        share = max(n for n in range(1, min(chunks, count) + 1) if count % n == 0)
        if share > 1 and share >= best[1]:
            best = (size, share)
    return best


@dataclass(frozen=True)
class SplitAttention(RewritePattern):
    """attention over a cache of more than one block -> attention_split, attention_merge; or, if
    `joins`, attention_split, attention_join.

    Blocks of at most `rows` neighbouring rows, or as many as have `key_bytes` bytes of keys, are
    dealt out to so many chunks that all heads together make at most `tasks` tasks.
    """

    rows: int
    key_bytes: int
    tasks: int
    joins: bool

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.AttentionOp, rewriter: PatternRewriter, /) -> None:
        batch, heads, capacity, depth = tensor.shape_of(op.k_cache)
        joins = self.joins and tensor.shape_of(op.position)[0] == 1 and depth % LEAST_JOINED == 0
        most = max(self.rows, self.key_bytes // (depth * bytes_of(op.k_cache)))
        # Who joins has no other to wait for while all rows are in its first block.
        least = max(LEAST_BLOCK, most // 2 + 1) if joins else LEAST_BLOCK
        tasks = max(1, self.tasks // (batch * heads))
        block, chunks = blocks_of(capacity, most, tasks, least)
        if chunks == 1 and capacity > most:
            block, chunks = blocks_of(capacity, most, tasks)
        if chunks == 1:
            return
        shape = (batch, heads, capacity // (block * chunks), chunks, block, depth)
        k, v = (tensor.ReshapeOp(cache, shape) for cache in (op.k_cache, op.v_cache))
        element = tensor.element_type_of(op.result)
        split = tensor.AttentionSplitOp(op, k.result, v.result, first=int(joins))
        caches = (split.k_result, split.v_result)
        if joins:
            merge = tensor.AttentionJoinOp(op, split, element)
            caches = (merge.k_result, merge.v_result)
        else:
            merge = tensor.AttentionMergeOp(split.acc, split.stats, op.position, block, element)
        results = [tensor.ReshapeOp(cache, (batch, heads, capacity, depth)) for cache in caches]
        ops = [k, v, split, merge, *results]
        for new in ops:
            new.location = op.location
        rewriter.replace(op, ops, [merge.result, *(cache.result for cache in results)])


@dataclass(frozen=True)
class SplitArgmax(RewritePattern):
    """argmax of a long row -> argmax_partial, argmax_merge, with the append of its result."""

    chunks: int

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.ArgmaxOp, rewriter: PatternRewriter, /) -> None:
        if not isinstance(tensor.element_type_of(op.x), BFloat16Type | Float16Type | Float32Type):
            return  # partial maxima are f32, which holds no larger type exactly
        gather, own = _gather_of(op), op.x
        chunks = self.chunks
        if gather is not None:
            own, chunks = gather.x, -(-chunks // gather.of.value.data)
        chunk = -(-tensor.shape_of(own)[-1] // chunks)
        if chunk > ARGMAX_ALIGNMENT:
            chunk = -(-chunk // ARGMAX_ALIGNMENT) * ARGMAX_ALIGNMENT
        partial = tensor.ArgmaxPartialOp(own, chunk)
        ops: list[Operation] = [partial]
        value, index, parts = partial.value, partial.index, None
        if gather is not None:
            ops += (gathered := _gathered(partial, gather.of.value.data))
            value, index = gathered[-2].results[0], gathered[-1].results[0]
            parts = tensor.shape_of(partial.value)[-1], tensor.shape_of(own)[-1]
        append = _append_of(op)
        if append is None:
            merge = tensor.ArgmaxMergeOp(value, index, parts=parts)
        else:
            merge = tensor.ArgmaxMergeOp(
                value, index, append.sequence, append.position, append.stop.get_values(), parts
            )
        for new in (*ops, merge):
            new.location = op.location
        if append is None:
            rewriter.replace(op, [*ops, merge], [merge.result])
            return
        assert merge.sequence_result is not None
        rewriter.insert(ops)
        rewriter.replace(append, merge, [merge.sequence_result])
        op.result.replace_all_uses_with(merge.result)
        rewriter.erase(op)


def _gather_of(op: tensor.ArgmaxOp) -> tensor.AllGatherOp | None:
    """The gather that makes an argmax's row of the parts that ranks have."""
    gather = op.x.owner
    if not isinstance(gather, tensor.AllGatherOp):
        return None
    return gather if gather.dim.value.data == len(tensor.shape_of(op.x)) - 1 else None


def _gathered(partial: tensor.ArgmaxPartialOp, of: int) -> list[Operation]:
    """Every rank's candidates in the order of ranks: the last two operators have the values and the
    indices, each in its rank's part."""
    *rows, chunks = tensor.shape_of(partial.value)
    own = [tensor.ReshapeOp(v, [*rows, 1, chunks]) for v in partial.results]
    gathers = [tensor.AllGatherOp(each.result, len(rows), of) for each in own]
    return [*own, *gathers, *(tensor.ReshapeOp(g.result, [*rows, of * chunks]) for g in gathers)]


def _append_of(op: tensor.ArgmaxOp) -> tensor.SequenceAppendOp | None:
    """The append of an argmax's result, if the argmax may move to where it stands."""
    users = [use.operation for use in op.result.uses]
    append = next((user for user in users if isinstance(user, tensor.SequenceAppendOp)), None)
    if append is None or any(user.is_before_in_block(append) for user in users):
        return None
    return append


@dataclass(frozen=True)
class SplitReductionsPass(ModulePass):
    """Split attention into at most `attention_tasks` tasks that take blocks of at most
    `attention_chunk` cache rows in turn, or as many as have `attention_bytes` bytes of keys, and
    argmax into `argmax_chunks` parts. The parts of attention are joined by tasks of their own, or,
    with `attention_joins`, where it is for one token, by those that have the first chunk: they wait
    for the others only where these have rows.
    """

    name = "mpk-split-reductions"

    attention_chunk: int = 32
    attention_bytes: int = 0
    attention_tasks: int = 132
    attention_joins: bool = False
    argmax_chunks: int = 64

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        patterns: list[RewritePattern] = [
            SplitAttention(
                self.attention_chunk,
                self.attention_bytes,
                self.attention_tasks,
                self.attention_joins,
            ),
            SplitArgmax(self.argmax_chunks),
        ]
        PatternRewriteWalker(GreedyRewritePatternApplier(patterns, ctx=ctx)).rewrite_module(op)
        dce(op)
