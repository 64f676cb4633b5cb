"""split-reductions: cut reductions that one worker would do alone into parts and a merge.

Attention over a long cache becomes attention over chunks of it and a merge (flash decoding); argmax
over the vocabulary becomes partial argmaxes and a merge, to which appending the chosen token is
folded.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import BFloat16Type, Float16Type, Float32Type, ModuleOp
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

LEAST_BLOCK = 16
"""Neighbouring cache rows that are worth a task of their own."""

ARGMAX_ALIGNMENT = 64
"""Parts of a long row begin at multiples of so many elements: readers use vectors."""


def blocks_of(capacity: int, block: int, chunks: int) -> tuple[int, int]:
    """How a cache of so many rows is dealt out: rows of a block, and to how many chunks.

    At most `block` and `chunks`; equal shares, so both divide what there is. As many chunks as
    possible, then blocks as large as possible; one chunk if there is no way to share.
    """
    best = (capacity, 1)
    for size in range(LEAST_BLOCK, min(block, capacity) + 1):
        if capacity % size:
            continue
        count = capacity // size
        share = max(n for n in range(1, min(chunks, count) + 1) if count % n == 0)
        if share > 1 and share >= best[1]:
            best = (size, share)
    return best


@dataclass(frozen=True)
class SplitAttention(RewritePattern):
    """attention over a cache of more than one block -> attention_split, attention_merge.

    Blocks of at most `block` neighbouring rows are dealt out to so many chunks that all heads
    together make at most `tasks` tasks.
    """

    block: int
    tasks: int

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.AttentionOp, rewriter: PatternRewriter, /) -> None:
        batch, heads, capacity, depth = tensor.shape_of(op.k_cache)
        block, chunks = blocks_of(capacity, self.block, max(1, self.tasks // (batch * heads)))
        if chunks == 1:
            return
        shape = (batch, heads, capacity // (block * chunks), chunks, block, depth)
        k, v = (tensor.ReshapeOp(cache, shape) for cache in (op.k_cache, op.v_cache))
        split = tensor.AttentionSplitOp(op, k.result, v.result)
        element = tensor.element_type_of(op.result)
        merge = tensor.AttentionMergeOp(split.acc, split.stats, op.position, block, element)
        results = [
            tensor.ReshapeOp(cache, (batch, heads, capacity, depth))
            for cache in (split.k_result, split.v_result)
        ]
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
        chunk = -(-tensor.shape_of(op.x)[-1] // self.chunks)
        if chunk > ARGMAX_ALIGNMENT:
            chunk = -(-chunk // ARGMAX_ALIGNMENT) * ARGMAX_ALIGNMENT
        partial = tensor.ArgmaxPartialOp(op.x, chunk)
        append = _append_of(op)
        if append is None:
            merge = tensor.ArgmaxMergeOp(partial.value, partial.index)
            partial.location = merge.location = op.location
            rewriter.replace(op, [partial, merge], [merge.result])
            return
        merge = tensor.ArgmaxMergeOp(
            partial.value,
            partial.index,
            append.sequence,
            append.position,
            append.stop.get_values(),
        )
        assert merge.sequence_result is not None
        partial.location = merge.location = op.location
        rewriter.insert(partial)
        rewriter.replace(append, merge, [merge.sequence_result])
        op.result.replace_all_uses_with(merge.result)
        rewriter.erase(op)


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
    `attention_chunk` cache rows in turn, and argmax into `argmax_chunks` parts.
    """

    name = "mpk-split-reductions"

    attention_chunk: int = 32
    attention_tasks: int = 132
    argmax_chunks: int = 64

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        patterns: list[RewritePattern] = [
            SplitAttention(self.attention_chunk, self.attention_tasks),
            SplitArgmax(self.argmax_chunks),
        ]
        PatternRewriteWalker(GreedyRewritePatternApplier(patterns, ctx=ctx)).rewrite_module(op)
        dce(op)
