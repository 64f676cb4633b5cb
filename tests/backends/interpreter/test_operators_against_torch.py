"""Every operator against PyTorch: in fp32 closely, in bf16 to the rounding of the result."""

from collections.abc import Callable, Sequence
from functools import partial

import ml_dtypes
import numpy as np
import pytest
import torch
from torch.nn import functional as F
from xdsl.dialects.builtin import TensorType, bf16, f32, i1, i64
from xdsl.ir import Operation, SSAValue
from xdsl.utils.test_value import create_ssa_value

from mpkir.backends.interpreter.kernels import Scalars, evaluate
from mpkir.dialects import tensor as t

RNG = np.random.default_rng(1)
ELEMENTS = {np.dtype(np.float32): f32, np.dtype(ml_dtypes.bfloat16): bf16}
ELEMENTS |= {np.dtype(np.int64): i64, np.dtype(np.bool_): i1}


def value(array: np.ndarray) -> SSAValue:
    return create_ssa_value(TensorType(ELEMENTS[array.dtype], array.shape))


def run(make: Callable[..., Operation], *arrays: np.ndarray, position: int = 0):
    op = make(*map(value, arrays))
    op.verify()
    return evaluate(op, arrays, Scalars(position))


def random(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


def to_torch(array: np.ndarray) -> torch.Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.astype(np.float32))
    return torch.from_numpy(np.array(array))


def check(result: np.ndarray, expected: torch.Tensor) -> None:
    """Equal within fp32 rounding, or, in bf16, within one unit in the last place."""
    narrow = result.dtype == ml_dtypes.bfloat16
    tolerance = 2.0**-8 if narrow else 2e-5
    np.testing.assert_allclose(
        result.astype(np.float32), expected.float().numpy(), rtol=tolerance, atol=tolerance / 10
    )


def same(result: np.ndarray, expected: np.ndarray) -> None:
    """Equal in every element, NaN to NaN (which NumPy does not know how to compare in bf16)."""
    np.testing.assert_array_equal(result.astype(np.float32), expected.astype(np.float32))


both = pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=["f32", "bf16"])


@both
def test_linear(dtype: object) -> None:
    x, w = random(2, 3, 40, dtype=dtype), random(7, 40, dtype=dtype)
    (y,) = run(lambda x, w: t.LinearOp(x, [w], t.element_type_of(x)), x, w)
    check(y, F.linear(to_torch(x), to_torch(w)))


@both
def test_matmul_broadcasts_batch(dtype: object) -> None:
    a, b = random(2, 1, 3, 5, dtype=dtype), random(4, 5, 6, dtype=dtype)
    (y,) = run(t.MatmulOp, a, b)
    check(y, to_torch(a) @ to_torch(b))


@both
def test_rms_norm(dtype: object) -> None:
    x, w = random(2, 3, 40, dtype=dtype), random(40, dtype=dtype)
    (y,) = run(lambda x, w: t.RmsNormOp(x, w, 1e-5), x, w)
    check(y, F.rms_norm(to_torch(x), [40], to_torch(w), 1e-5))
    (y,) = run(lambda x: t.RmsNormOp(x, None, 1e-5), x)
    check(y, F.rms_norm(to_torch(x), [40], None, 1e-5))


@both
def test_layer_norm(dtype: object) -> None:
    x, w, b = random(2, 40, dtype=dtype), random(40, dtype=dtype), random(40, dtype=dtype)
    (y,) = run(lambda x, w, b: t.LayerNormOp(x, w, b, 1e-5), x, w, b)
    check(y, F.layer_norm(to_torch(x), [40], to_torch(w), to_torch(b), 1e-5))


@both
def test_softmax(dtype: object) -> None:
    x = random(3, 17, dtype=dtype)
    (y,) = run(t.SoftmaxOp, x)
    check(y, torch.softmax(to_torch(x), -1))


@pytest.mark.parametrize("dims", [[0], [2], [0, 1], [0, 1, 2]])
@pytest.mark.parametrize("kind", list(t.ReductionKind))
def test_reduce(kind: t.ReductionKind, dims: Sequence[int]) -> None:
    x = random(3, 4, 5)
    (y,) = run(lambda x: t.ReduceOp(kind, x, dims), x)
    names = {"sum": torch.sum, "mean": torch.mean, "max": torch.amax, "min": torch.amin}
    check(y, names[kind.value](to_torch(x), dim=tuple(dims), keepdim=True))


def test_argmax_takes_the_first_of_equals() -> None:
    x = np.array([[1, 3, 3, 2], [5, 5, 5, 5]], np.float32)
    (y,) = run(t.ArgmaxOp, x)
    assert y.tolist() == [1, 0]


@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
def test_argmax_in_chunks(chunk: int) -> None:
    x = RNG.integers(0, 6, (3, 23)).astype(np.float32) - 10
    value_, index = run(lambda x: t.ArgmaxPartialOp(x, chunk), x)
    (y,) = run(t.ArgmaxMergeOp, value_, index)
    np.testing.assert_array_equal(y, np.argmax(x, -1))


def test_argmax_partial_of_a_tile_counts_from_its_origin() -> None:
    x, origin = random(1, 8), np.array([3])
    _, index = run(lambda x, o: t.ArgmaxPartialOp(x, 4, o), x, origin)
    assert index.tolist() == [[12 + np.argmax(x[0, :4]), 16 + np.argmax(x[0, 4:])]]


@both
def test_linear_keeps_the_best_of_neighbours(dtype: object) -> None:
    """Of what it stores, so the first of those that rounding makes equal; a NaN above all."""
    x, w = random(2, 3, 16, dtype=dtype), random(24, 16, dtype=dtype) / 100
    w[5] = w[6] = w[2]
    w[[17, 20]] = np.nan
    make = partial(t.LinearOp, element_type=bf16 if dtype != np.float32 else f32, best=8)
    y, value_, index = run(lambda x, w: make(x, [w]), x, w)
    (alone,) = run(lambda x, w: t.LinearOp(x, [w], make.keywords["element_type"]), x, w)
    same(y, alone)
    expected = to_torch(y).reshape(2, 3, 3, 8).max(-1)
    torch.testing.assert_close(to_torch(value_), expected.values, equal_nan=True, rtol=0, atol=0)
    assert index.dtype == np.int64
    assert np.array_equal(index, np.argmax(y.astype(np.float32).reshape(2, 3, 3, 8), -1))
    assert (index[..., 2] == 1).all()


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_candidates_are_joined(chunk: int) -> None:
    """In chunks, the last of fewer; what they are joined to counts in the whole row."""
    x = RNG.integers(0, 3, (3, 35)).astype(np.float32) - 10
    x[1] = -np.inf
    x[2, [9, 30]] = np.nan
    value_, _ = run(lambda x: t.ArgmaxPartialOp(x, 5), x)
    within = np.argmax(x.reshape(3, 7, 5), -1)
    value_, index = run(lambda v, i: t.ArgmaxJoinOp(v, i, chunk, 5), value_, within)
    assert value_.shape == (3, -(-7 // chunk))
    (y,) = run(t.ArgmaxMergeOp, value_, index)
    np.testing.assert_array_equal(y, np.argmax(x, -1))


def test_joined_candidates_of_a_tile_count_from_its_origin() -> None:
    value_, within, origin = random(1, 6), np.array([[4, 3, 2, 1, 0, 4]]), np.array([2])
    make = lambda v, i, o: t.ArgmaxJoinOp(v, i, 3, 5, o)  # noqa: E731
    _, index = run(make, value_, within, origin)
    best = [int(np.argmax(value_[0, :3])), 3 + int(np.argmax(value_[0, 3:]))]
    assert index.tolist() == [[(6 + j) * 5 + within[0, j] for j in best]]


def test_embedding() -> None:
    table, ids = random(9, 4), np.array([[3, 8, 0]])
    (y,) = run(t.EmbeddingOp, table, ids)
    check(y, F.embedding(torch.from_numpy(ids), to_torch(table)))
    (y,) = run(t.EmbeddingOp, table, np.array([3, 8, 0]), np.array([1, 2]))
    np.testing.assert_array_equal(y, table[[8, 0]][np.newaxis])


@pytest.mark.parametrize("kv", [1, 2, 4])
@pytest.mark.parametrize("causal", [False, True])
@both
def test_sdpa(dtype: object, causal: bool, kv: int) -> None:
    q, k, v = (random(2, h, 5, 8, dtype=dtype) for h in (4, kv, kv))
    (y,) = run(lambda q, k, v: t.SdpaOp(q, k, v, None, 0.3, causal), q, k, v)
    expected = F.scaled_dot_product_attention(
        to_torch(q), to_torch(k), to_torch(v), is_causal=causal, scale=0.3, enable_gqa=True
    )
    check(y, expected)


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_sdpa_with_mask(kind: str) -> None:
    q, k, v = random(1, 2, 3, 8), random(1, 2, 6, 8), random(1, 2, 6, 8)
    mask = RNG.random((1, 1, 3, 6)) < 0.5 if kind == "bool" else random(1, 1, 3, 6)
    if kind == "bool":
        mask[0, 0, 1] = False  # a query that may look at nothing gets zeros
    (y,) = run(lambda q, k, v, m: t.SdpaOp(q, k, v, m, 0.3), q, k, v, mask)
    expected = F.scaled_dot_product_attention(
        to_torch(q), to_torch(k), to_torch(v), to_torch(mask), scale=0.3
    )
    check(y, expected)


def half_rotation(x: torch.Tensor, position: torch.Tensor, inv_freq: torch.Tensor) -> torch.Tensor:
    """transformers' rotate_half form, x: [B, T, heads, D]."""
    angle = position[:, None].float() * inv_freq
    angle = torch.cat([angle, angle], -1)[:, None]
    low, high = x.chunk(2, -1)
    return x * angle.cos() + torch.cat([-high, low], -1) * angle.sin()


@both
def test_rotary(dtype: object) -> None:
    x, position = random(2, 3, 4, 8, dtype=dtype), np.array([0, 5, 700])
    inv_freq = (1e4 ** -(np.arange(4) / 4)).astype(np.float32)
    expected = half_rotation(to_torch(x), torch.from_numpy(position), torch.from_numpy(inv_freq))
    (y,) = run(t.RotaryOp, x, position, inv_freq)
    check(y, expected)
    (y,) = run(lambda *a: t.RotaryOp(*a, scale=0.5), x, position, inv_freq)
    check(y, 0.5 * expected)


def test_rotary_of_some_dimensions_and_interleaved() -> None:
    x, position, inv_freq = random(1, 2, 3, 10), np.array([4, 5]), random(3)
    (partial,) = run(t.RotaryOp, x, position, inv_freq)
    (whole,) = run(t.RotaryOp, x[..., :6].copy(), position, inv_freq)
    np.testing.assert_array_equal(partial[..., :6], whole)
    np.testing.assert_array_equal(partial[..., 6:], x[..., 6:])

    (y,) = run(lambda *a: t.RotaryOp(*a, interleaved=True), x, position, inv_freq)
    pairs = torch.view_as_complex(to_torch(x[..., :6].copy()).reshape(1, 2, 3, 3, 2))
    angle = torch.from_numpy(position)[:, None].float() * torch.from_numpy(inv_freq)
    turned = pairs * torch.polar(torch.ones_like(angle), angle)[:, None]
    check(y[..., :6], torch.view_as_real(turned).reshape(1, 2, 3, 6))


@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize("first", [0, 1, 9, 14])
@both
def test_attention(dtype: object, first: int, soft_cap: float | None, window: int | None) -> None:
    """Whole and split attention with a cache against a plain loop over queries and heads."""
    b, tokens, heads, kv, capacity, d = 2, 2, 4, 2, 16, 8
    q = random(b, tokens, heads, d, dtype=dtype)
    k, v = (random(b, tokens, kv, d, dtype=dtype) for _ in range(2))
    k_cache, v_cache = (random(b, kv, capacity, d, dtype=dtype) for _ in range(2))
    k_cache[:, :, first + tokens :] = np.nan  # rows not written yet are never looked at
    position = np.arange(first, first + tokens)
    operands = (q, k, v, k_cache, v_cache, position)

    new_k, new_v = k_cache.copy(), v_cache.copy()
    new_k[:, :, position], new_v[:, :, position] = k.swapaxes(1, 2), v.swapaxes(1, 2)
    expected = torch.zeros(b, tokens, heads, d)
    for batch, token, head in np.ndindex(b, tokens, heads):
        last = position[token] + 1
        rows = slice(0 if window is None else max(0, last - window), last)
        keys, values = (to_torch(c)[batch, head // 2, rows] for c in (new_k, new_v))
        scores = 0.4 * keys @ to_torch(q)[batch, token, head]
        if soft_cap is not None:
            scores = soft_cap * torch.tanh(scores / soft_cap)
        expected[batch, token, head] = torch.softmax(scores, -1) @ values

    def attention(*values: SSAValue) -> t.AttentionOp:
        return t.AttentionOp(*values, 0.4, window=window, soft_cap=soft_cap)

    y, k_result, v_result = run(attention, *operands)
    check(y, expected)
    same(k_result, new_k)
    same(v_result, new_v)

    blocks = (b, kv, 2, 2, capacity // 4, d)

    def split(*values: SSAValue) -> t.AttentionSplitOp:
        return t.AttentionSplitOp(attention(*values), values[3], values[4])

    in_blocks = (k_cache.reshape(blocks), v_cache.reshape(blocks))
    acc, stats, k_result, v_result = run(split, q, k, v, *in_blocks, position)
    same(k_result.reshape(k_cache.shape), new_k)
    same(v_result.reshape(v_cache.shape), new_v)
    (y,) = run(
        lambda *parts: t.AttentionMergeOp(*parts, capacity // 4, ELEMENTS[np.dtype(dtype)]),
        acc,
        stats,
        position,
    )
    check(y, expected)


def test_cache_append() -> None:
    cache, new = random(2, 3, 8, 4), random(2, 3, 2, 4)
    (y,) = run(t.CacheAppendOp, cache, new, np.array([5, 1]))
    expected = cache.copy()
    expected[:, :, [5, 1]] = new
    np.testing.assert_array_equal(y, expected)


def test_views() -> None:
    x = random(4, 6, 5)
    torch_x = to_torch(x)
    for make, expected in [
        (lambda v: t.ReshapeOp(v, [8, 15]), torch_x.reshape(8, 15)),
        (lambda v: t.TransposeOp(v, [2, 0, 1]), torch_x.permute(2, 0, 1)),
        (lambda v: t.SliceOp(v, 1, 1, 2, 3), torch_x[:, 1:6:3]),
        (lambda v: t.BroadcastOp(v, [2, 4, 6, 5]), torch_x.expand(2, 4, 6, 5)),
    ]:
        (y,) = run(make, x)
        np.testing.assert_array_equal(y, expected.numpy())
    (y,) = run(lambda a, b: t.ConcatOp([a, b], 1), x, x[:, :2])
    np.testing.assert_array_equal(y, np.concatenate([x, x[:, :2]], 1))
