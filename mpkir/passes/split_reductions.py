"""split-reductions: cut reductions that one worker would do alone into parts and a merge.

Attention over a long cache becomes attention over chunks of it and a merge (flash decoding); argmax
over the vocabulary becomes partial argmaxes and a merge, to which appending the chosen token is
folded. Where the row is a linear's result, the linear keeps the best of every few features itself,
and nobody reads the row again. Where ranks gather their parts of a row for an argmax, each finds
candidates in its own and they gather only those.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from xdsl.context import Context
from xdsl.dialects.builtin import BFloat16Type, Float16Type, Float32Type, ModuleOp
from xdsl.ir import Operation, SSAValue
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

JOINED_AT_ONCE = 32
"""Of many candidates a task joins a multiple of this: a warp looks at as many at once."""


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
    """argmax of a long row -> argmax_partial, argmax_merge, with the append of its result; if the
    row is a linear's result of a multiple of `best_of` features, linear with the best of as many,
    argmax_join where these are more than `chunks`, and of all rows more than `at_once`,
    argmax_merge.
    """

    chunks: int
    best_of: int
    at_once: int

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.ArgmaxOp, rewriter: PatternRewriter, /) -> None:
        if not isinstance(tensor.element_type_of(op.x), BFloat16Type | Float16Type | Float32Type):
            return  # partial maxima are f32, which holds no larger type exactly
        gather, own = _gather_of(op), op.x
        chunks = self.chunks
        if gather is not None:
            own, chunks = gather.x, -(-chunks // gather.of.value.data)
        linear = _linear_of(own, self.best_of)
        if linear is None:
            found = _in_parts(own, chunks)
        else:
            rows = prod(tensor.shape_of(op.result)) * (
                1 if gather is None else gather.of.value.data
            )
            most = max(chunks, self.at_once // rows)
            found = _kept(linear, self.best_of, chunks, most, rewriter)
            own = found.row
        ops, value, index, parts = list(found.ops), found.value, found.index, found.parts
        if gather is not None:
            ops += (gathered := _gathered(value, index, gather.of.value.data))
            value, index = gathered[-2].results[0], gathered[-1].results[0]
            parts = parts or (tensor.shape_of(found.value)[-1], tensor.shape_of(own)[-1])
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


@dataclass(frozen=True)
class _Candidates:
    """The largest elements of the parts of a row, and where they are."""

    row: SSAValue
    value: SSAValue
    index: SSAValue
    parts: tuple[int, int] | None
    """As of argmax_merge."""
    ops: tuple[Operation, ...]
    """Operators that find them, to be put in front of who reads them."""


def _in_parts(row: SSAValue, chunks: int) -> _Candidates:
    """Those of at most so many parts of a row, all of which is read for it."""
    chunk = -(-tensor.shape_of(row)[-1] // chunks)
    if chunk > ARGMAX_ALIGNMENT:
        chunk = -(-chunk // ARGMAX_ALIGNMENT) * ARGMAX_ALIGNMENT
    partial = tensor.ArgmaxPartialOp(row, chunk)
    return _Candidates(row, partial.value, partial.index, None, (partial,))


def _linear_of(row: SSAValue, best_of: int) -> tensor.LinearOp | None:
    """The linear whose result a row is, if it can keep the best of every so many features."""
    linear = row.owner
    if not best_of or not isinstance(linear, tensor.LinearOp):
        return None
    if linear.best is not None and linear.best.value.data != best_of:
        return None
    return None if tensor.shape_of(row)[-1] % best_of else linear


def _kept(
    linear: tensor.LinearOp, best_of: int, chunks: int, most: int, rewriter: PatternRewriter
) -> _Candidates:
    """Those that a linear keeps; if more than `most` of a row, joined to so many chunks."""
    if linear.best is None:
        keeping = linear.like(
            linear.x,
            tensor.element_type_of(linear.result),
            prologue=None if linear.prologue is None else linear.prologue.clone(),
            prologue_args=linear.prologue_args,
            epilogue=None if linear.epilogue is None else linear.epilogue.clone(),
            epilogue_args=linear.epilogue_args,
            best=best_of,
        )
        keeping.location = linear.location
        rewriter.replace(linear, keeping, [keeping.result])
        linear = keeping
    value, index = linear.candidates
    count = tensor.shape_of(value)[-1]
    if count <= most:
        return _Candidates(linear.result, value, index, (1, best_of), ())
    each = -(-count // chunks)
    if each > JOINED_AT_ONCE // 2:
        each = -(-each // JOINED_AT_ONCE) * JOINED_AT_ONCE
    join = tensor.ArgmaxJoinOp(value, index, each, best_of)
    return _Candidates(linear.result, join.value_result, join.index_result, None, (join,))


def _gather_of(op: tensor.ArgmaxOp) -> tensor.AllGatherOp | None:
    """The gather that makes an argmax's row of the parts that ranks have."""
    gather = op.x.owner
    if not isinstance(gather, tensor.AllGatherOp):
        return None
    return gather if gather.dim.value.data == len(tensor.shape_of(op.x)) - 1 else None


def _gathered(value: SSAValue, index: SSAValue, of: int) -> list[Operation]:
    """Every rank's candidates in the order of ranks: the last two operators have the values and the
    indices, each in its rank's part."""
    *rows, chunks = tensor.shape_of(value)
    own = [tensor.ReshapeOp(v, [*rows, 1, chunks]) for v in (value, index)]
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
    argmax into `argmax_chunks` parts; with `argmax_best_of`, where a linear makes the row, these
    are not of the row but of the best of so many of its features each, which the linear keeps, and
    these are not joined before they are merged if all rows have at most `argmax_at_once`. The parts
    of attention are joined by tasks of their own, or, with `attention_joins`, where it is for one
    token, by those that have the first chunk: they wait for the others only where these have rows.
    """

    name = "mpk-split-reductions"

    attention_chunk: int = 32
    attention_bytes: int = 0
    attention_tasks: int = 132
    attention_joins: bool = False
    argmax_chunks: int = 64
    argmax_best_of: int = 0
    argmax_at_once: int = 0

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        patterns: list[RewritePattern] = [
            SplitAttention(
                self.attention_chunk,
                self.attention_bytes,
                self.attention_tasks,
                self.attention_joins,
            ),
            SplitArgmax(self.argmax_chunks, self.argmax_best_of, self.argmax_at_once),
        ]
        PatternRewriteWalker(GreedyRewritePatternApplier(patterns, ctx=ctx)).rewrite_module(op)
        dce(op)
