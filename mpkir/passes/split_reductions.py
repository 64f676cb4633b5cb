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

LEAST_CHUNK = 16
"""Cache rows that are worth a task of their own."""


@dataclass(frozen=True)
class SplitAttention(RewritePattern):
    """attention over more than one chunk of the cache -> attention_split, attention_merge.

    The chunk is the largest part of the cache, at most `chunk` rows, that divides it evenly; of a
    long cache as many rows as make `tasks` tasks of all heads together.
    """

    chunk: int
    tasks: int

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.AttentionOp, rewriter: PatternRewriter, /) -> None:
        batch, heads, capacity, _ = tensor.shape_of(op.k_cache)
        if capacity <= self.chunk:
            return
        # Equal chunks: one that reaches over the cache's end would be another shape of task.
        parts = [size for size in range(1, capacity + 1) if capacity % size == 0]
        chunk = max(size for size in parts if size <= self.chunk)
        if capacity // chunk * batch * heads > self.tasks:
            least = -(-capacity * batch * heads // self.tasks)
            chunk = min(size for size in parts if size >= min(least, capacity))
        if not LEAST_CHUNK <= chunk < capacity:
            return
        split = tensor.AttentionSplitOp(op, chunk)
        merge = tensor.AttentionMergeOp(split.acc, split.stats, tensor.element_type_of(op.result))
        split.location = merge.location = op.location
        rewriter.replace(op, [split, merge], [merge.result, split.k_result, split.v_result])


@dataclass(frozen=True)
class SplitArgmax(RewritePattern):
    """argmax of a long row -> argmax_partial, argmax_merge, with the append of its result."""

    chunks: int

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.ArgmaxOp, rewriter: PatternRewriter, /) -> None:
        if not isinstance(tensor.element_type_of(op.x), BFloat16Type | Float16Type | Float32Type):
            return  # partial maxima are f32, which holds no larger type exactly
        partial = tensor.ArgmaxPartialOp(op.x, -(-tensor.shape_of(op.x)[-1] // self.chunks))
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
    """Split attention into chunks of at most `attention_chunk` cache rows, but no more than
    `attention_tasks` of them, and argmax into `argmax_chunks` parts.
    """

    name = "mpk-split-reductions"

    attention_chunk: int = 256
    attention_tasks: int = 264
    argmax_chunks: int = 64

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        patterns: list[RewritePattern] = [
            SplitAttention(self.attention_chunk, self.attention_tasks),
            SplitArgmax(self.argmax_chunks),
        ]
        PatternRewriteWalker(GreedyRewritePatternApplier(patterns, ctx=ctx)).rewrite_module(op)
        dce(op)
