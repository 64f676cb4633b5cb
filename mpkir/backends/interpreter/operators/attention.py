"""Kernels of attention, whole and in chunks, rotary embedding and cache append."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from xdsl.ir import Region

from mpkir.backends.interpreter.kernels import (
    BlockKernel,
    Kernel,
    Scalars,
    block_kernel,
    builder,
)
from mpkir.backends.interpreter.values import Array, rounding_to
from mpkir.dialects import tensor as t
from mpkir.errors import MpkirError

NOWHERE = -1
"""Instead of a position: rows that others write."""


@builder(t.RotaryOp)
def _rotary(op: t.RotaryOp) -> Kernel:
    turned = 2 * t.shape_of(op.inv_freq)[0]
    scale = np.float32(op.scale.value.data)
    if op.interleaved is None:
        first, second = slice(0, turned // 2), slice(turned // 2, turned)
    else:
        first, second = slice(0, turned, 2), slice(1, turned, 2)
    to_type = rounding_to(t.element_type_of(op.result))

    def run(_: Scalars, x: Array, position: Array, inv_freq: Array) -> tuple[Array, ...]:
        angle = (position[:, np.newaxis].astype(np.float32) * inv_freq)[:, np.newaxis, :]
        cos, sin = np.cos(angle), np.sin(angle)
        a, b = x[..., first], x[..., second]
        y = np.array(x, np.float32)
        y[..., first] = scale * (a * cos - b * sin)
        y[..., second] = scale * (b * cos + a * sin)
        return (to_type(y),)

    return run


@builder(t.CacheAppendOp)
def _cache_append(op: t.CacheAppendOp) -> Kernel:
    return lambda _, cache, new, position: (_appended(cache, new, position),)


def _appended(cache: Array, new: Array, position: Array, places: Array | None = None) -> Array:
    """The cache [B, KV, C, D] with rows `position` replaced by `new` [B, KV, T, D].

    `places`: the position that each row is of; where none is of a position, that is another tile's.
    None: row j is of position j, and a position outside is an error.
    """
    result = cache.copy()
    if places is None:
        inside = (position >= 0) & (position < cache.shape[2])
        if not inside.all():
            size = cache.shape[2]
            raise MpkirError(f"position {position[~inside][0]} is outside a cache of {size}")
        result[:, :, position] = new
        return result
    row, token = np.nonzero(places[:, np.newaxis] == position)
    result[:, :, row] = new[:, :, token]
    return result


@builder(t.SdpaOp)
def _sdpa(op: t.SdpaOp) -> Kernel:
    scale = np.float32(op.scale.value.data)
    b, heads, queries, d = t.shape_of(op.q)
    _, kv, keys, _ = t.shape_of(op.k)
    causal = None if op.causal is None else np.tril(np.ones((queries, keys), np.bool_))
    to_type = rounding_to(t.element_type_of(op.result))

    def run(_: Scalars, q: Array, k: Array, v: Array, mask: Array | None = None):
        grouped = q.reshape(b, kv, heads // kv * queries, d)
        scores = scale * (grouped @ k.swapaxes(-1, -2)).reshape(b, heads, queries, keys)
        for allowed in (causal, mask):
            if allowed is None:
                continue
            if allowed.dtype == np.bool_:
                scores = np.where(allowed, scores, np.float32(-np.inf))
            else:
                scores = scores + allowed
        top = np.max(scores, axis=-1, keepdims=True)
        e = np.where(np.isneginf(top), np.float32(0), np.exp(scores - top))
        total = np.sum(e, axis=-1, keepdims=True)
        p = (e / np.where(total == 0, np.float32(1), total)).reshape(b, kv, -1, keys)
        return (to_type((p @ v).reshape(b, heads, queries, d)),)

    return run


@dataclass(frozen=True)
class _Cached:
    """What whole and split attention over a cache have in common."""

    q_prologue: BlockKernel | None
    k_prologue: BlockKernel | None
    q_args: int
    k_args: int
    scale: np.float32
    window: int | None
    soft_cap: np.float32 | None
    heads_per_kv: int
    to_cache: Callable[[Array], Array]

    @classmethod
    def of(cls, op: t.AttentionOp | t.AttentionSplitOp | t.AttentionJoinOp) -> _Cached:
        def prologue(region: Region | None) -> BlockKernel | None:
            return None if region is None else block_kernel(region.block)

        return cls(
            prologue(op.q_prologue),
            prologue(op.k_prologue),
            len(op.q_args),
            len(op.k_args),
            np.float32(op.scale.value.data),
            None if op.window is None else op.window.value.data,
            None if op.soft_cap is None else np.float32(op.soft_cap.value.data),
            t.shape_of(op.q)[2] // t.shape_of(op.k)[2],
            rounding_to(t.element_type_of(op.k_cache)),
        )

    def append(
        self, scalars: Scalars, operands: tuple[Array, ...], places: Array | None = None
    ) -> tuple[Array, Array, Array]:
        """Queries after their prologue, and both caches with the step's rows in them."""
        q, k, v, k_cache, v_cache, position = operands[:6]
        q_args, k_args = operands[6 : 6 + self.q_args], operands[6 + self.q_args :]
        if self.q_prologue is not None:
            (q,) = self.q_prologue(scalars, (q, *q_args))
        if self.k_prologue is not None:
            (k,) = self.k_prologue(scalars, (k, *k_args[: self.k_args]))
        new_k, new_v = (self.to_cache(x).swapaxes(1, 2) for x in (k, v))
        return (
            q,
            _appended(k_cache, new_k, position, places),
            _appended(v_cache, new_v, position, places),
        )

    def scores(self, q: Array, k: Array, position: Array, row: Array) -> Array:
        """Masked scores [B, KV, G, T, rows] of keys of positions `row`; -inf where a query may not
        look.
        """
        b, tokens, _, d = q.shape
        groups = q.transpose(0, 2, 1, 3).reshape(b, -1, self.heads_per_kv * tokens, d)
        scores = self.scale * (groups @ k.swapaxes(-1, -2))
        if self.soft_cap is not None:
            scores = self.soft_cap * np.tanh(scores / self.soft_cap)
        allowed = row <= position[:, np.newaxis]
        if self.window is not None:
            allowed &= row > position[:, np.newaxis] - self.window
        scores = scores.reshape(b, -1, self.heads_per_kv, tokens, k.shape[2])
        return np.where(allowed, scores, np.float32(-np.inf))

    def part(
        self, q: Array, k: Array, v: Array, position: Array, row: Array
    ) -> tuple[Array, Array]:
        """Sums and stats of a chunk, [B, T, H, D] and [B, T, H, 2], of rows of positions `row`."""
        scores = self.scores(q, k, position, row)
        top = np.max(scores, axis=-1, keepdims=True)
        e = np.where(np.isneginf(top), np.float32(0), np.exp(scores - top))
        stats = (_token_major(top[..., 0]), _token_major(np.sum(e, axis=-1)))
        return _weigh(e, v), np.stack(stats, axis=-1)


def _weigh(e: Array, v: Array) -> Array:
    """sum_j e[.., j] * v[j]: [B, KV, G, T, rows] and [B, KV, rows, D] to [B, T, heads, D]."""
    b, kv, groups, tokens, rows = e.shape
    y = (e.reshape(b, kv, groups * tokens, rows) @ v).reshape(b, kv * groups, tokens, -1)
    return y.transpose(0, 2, 1, 3)


def _token_major(x: Array) -> Array:
    """[B, KV, G, T] to [B, T, heads]."""
    b, kv, groups, tokens = x.shape
    return x.reshape(b, kv * groups, tokens).transpose(0, 2, 1)


@builder(t.AttentionOp)
def _attention(op: t.AttentionOp) -> Kernel:
    cached = _Cached.of(op)
    to_type = rounding_to(t.element_type_of(op.result))

    def run(scalars: Scalars, *operands: Array) -> tuple[Array, ...]:
        q, k_cache, v_cache = cached.append(scalars, operands)
        position = operands[5]
        rows = int(position.max()) + 1
        scores = cached.scores(q, k_cache[:, :, :rows], position, np.arange(rows))
        e = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
        p = e / np.sum(e, axis=-1, keepdims=True)
        return to_type(_weigh(p, v_cache[:, :, :rows])), k_cache, v_cache

    return run


@builder(t.AttentionSplitOp)
def _attention_split(op: t.AttentionSplitOp) -> Kernel:
    cached, chunks = _Cached.of(op), op.chunks.value.data
    has_origin = op.origin is not None
    first = op.first.value.data
    skipped = 0 if has_origin else first
    *lead, rounds, here, block, depth = t.shape_of(op.k_cache)
    starts = (np.arange(rounds)[:, np.newaxis] * chunks + np.arange(here)) * block
    rows_of_all = starts[:, :, np.newaxis] + np.arange(block)

    def run(scalars: Scalars, *operands: Array) -> tuple[Array, ...]:
        origin = 0
        if has_origin:
            origin, operands = int(operands[0][0]) + first, operands[1:]
        q, k, v, k_blocks, v_blocks, position = operands[:6]
        places = rows_of_all + origin * block
        if not has_origin and int(position.max()) >= places.size:
            raise MpkirError(f"position {position.max()} is outside a cache of {places.size}")
        places[:, :skipped] = NOWHERE
        k_cache, v_cache = (x.reshape(*lead, -1, depth) for x in (k_blocks, v_blocks))
        operands = (q, k, v, k_cache, v_cache, *operands[5:])
        q, k_cache, v_cache = cached.append(scalars, operands, places.reshape(-1))
        k_blocks, v_blocks = (x.reshape(*k_blocks.shape) for x in (k_cache, v_cache))
        acc = np.zeros(t.shape_of(op.acc), np.float32)
        stats = np.zeros(t.shape_of(op.stats), np.float32)
        stats[..., 0] = -np.inf
        for s in range(skipped, here):
            row = places[:, s].reshape(-1)
            count = int(np.searchsorted(row, int(position.max()), side="right"))
            if count == 0:
                continue
            keys, values = (
                x[:, :, :, s].reshape(*lead, -1, depth)[:, :, :count] for x in (k_blocks, v_blocks)
            )
            part = cached.part(q, keys, values, position, row[:count])
            acc[:, :, :, s - skipped], stats[:, :, :, s - skipped] = part
        return acc, stats, k_blocks, v_blocks

    return run


@builder(t.AttentionJoinOp)
def _attention_join(op: t.AttentionJoinOp) -> Kernel:
    cached, chunks = _Cached.of(op), op.chunks.value.data
    to_type = rounding_to(t.element_type_of(op.result))
    *lead, rounds, here, block, depth = t.shape_of(op.k_cache)
    rows = (np.arange(rounds)[:, np.newaxis] * (chunks * block) + np.arange(block)).reshape(-1)
    places = np.full((rounds, here, block), NOWHERE)
    places[:, 0] = rows.reshape(rounds, block)

    def run(scalars: Scalars, acc: Array, stats: Array, *operands: Array) -> tuple[Array, ...]:
        q, k, v, k_blocks, v_blocks, position = operands[:6]
        k_cache, v_cache = (x.reshape(*lead, -1, depth) for x in (k_blocks, v_blocks))
        operands = (q, k, v, k_cache, v_cache, *operands[5:])
        q, k_cache, v_cache = cached.append(scalars, operands, places.reshape(-1))
        k_blocks, v_blocks = (x.reshape(*k_blocks.shape) for x in (k_cache, v_cache))
        count = int(np.searchsorted(rows, int(position.max()), side="right"))
        keys, values = (
            x[:, :, :, 0].reshape(*lead, -1, depth)[:, :, :count] for x in (k_blocks, v_blocks)
        )
        own_acc, own_stats = cached.part(q, keys, values, position, rows[:count])
        parts = int(position.max()) // block
        return (
            to_type(
                _joined(
                    np.concatenate([own_acc[:, :, :, np.newaxis], acc[..., :parts, :]], axis=3),
                    np.concatenate([own_stats[:, :, :, np.newaxis], stats[..., :parts, :]], axis=3),
                )
            ),
            k_blocks,
            v_blocks,
        )

    return run


def _joined(acc: Array, stats: Array) -> Array:
    """[B, T, H, S, D] and [B, T, H, S, 2] to the attention over all chunks, [B, T, H, D]."""
    top = stats[..., 0]
    # A chunk nobody looked at has top -inf and weighs exp(-inf) = 0.
    weight = np.exp(top - np.max(top, axis=-1, keepdims=True))
    total = np.sum(weight * stats[..., 1], axis=-1, keepdims=True)
    return np.sum(acc * weight[..., np.newaxis], axis=-2) / total


@builder(t.AttentionMergeOp)
def _attention_merge(op: t.AttentionMergeOp) -> Kernel:
    to_type = rounding_to(t.element_type_of(op.result))
    block = op.block.value.data

    def run(_: Scalars, acc: Array, stats: Array, position: Array) -> tuple[Array, ...]:
        parts = int(position.max()) // block + 1
        return (to_type(_joined(acc[..., :parts, :], stats[..., :parts, :])),)

    return run
