"""Tiling rules: for each operator, which dimensions are cut and how finely.

A rule may cut only dimensions along which the operator's results are independent; what a rule does
not know is done whole, by one task. Sizes are chosen so that the tasks of a family fill the workers
evenly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil, lcm, prod

from xdsl.ir import Operation

from mpkir.dialects import tensor
from mpkir.passes.tiling.experts import expert_linear
from mpkir.passes.tiling.limits import Limits, bytes_of, features_per_task
from mpkir.passes.tiling.tiling import Cut, Tiling, box, broadcast_box, whole
from mpkir.registry import Registry

MERGED_COLUMNS = 32
"""Fewest columns of a head that are worth a task of their own in a merge."""


def _linear(op: tensor.LinearOp, limits: Limits) -> Tiling:
    shape = tensor.shape_of(op.result)
    features, depth = tensor.shape_of(op.weights[0])
    row_bytes, few = depth * bytes_of(op.weights[0]), limits.of_rows(prod(shape[:-1]))
    best = 1 if op.best is None else op.best.value.data
    few = replace(few, row_multiple=_multiple(features, few.row_multiple, best))
    size = features_per_task(features, row_bytes, len(op.weights), few)
    last = {len(shape) - 1: Cut(0, size)}
    kept = {len(shape) - 1: Cut(0, size // best)}
    return Tiling(
        (ceil(features / size),),
        (
            box(tensor.shape_of(op.x), {}, 1),
            *(box(tensor.shape_of(w), {0: Cut(0, size)}, 1) for w in op.weights),
            *(box(tensor.shape_of(v), {}, 1) for v in op.prologue_args),
            *(broadcast_box(v, shape, last, 1) for v in op.epilogue_args),
        ),
        (box(shape, last, 1), *(box(tensor.shape_of(v), kept, 1) for v in op.candidates)),
    )


def _multiple(features: int, multiple: int, best: int) -> int:
    """Of what the features of a task are a multiple that keeps the best of every so many: of both,
    if that divides them, too."""
    both = lcm(multiple, best)
    return best if features % both else both


def _attention(op: tensor.AttentionOp, limits: Limits) -> Tiling:
    batch, _, heads, _ = tensor.shape_of(op.q)
    kv = tensor.shape_of(op.k)[2]
    q = {0: Cut(0, 1), 2: Cut(1, heads // kv)}
    k = {0: Cut(0, 1), 2: Cut(1, 1)}
    cache = {0: Cut(0, 1), 1: Cut(1, 1)}
    cached = box(tensor.shape_of(op.k_cache), cache, 2)
    return Tiling(
        (batch, kv),
        (
            box(tensor.shape_of(op.q), q, 2),
            *(box(tensor.shape_of(v), k, 2) for v in (op.k, op.v)),
            cached,
            cached,
            *(box(tensor.shape_of(v), {}, 2) for v in (op.position, *op.q_args, *op.k_args)),
        ),
        (box(tensor.shape_of(op.result), q, 2), cached, cached),
    )


def _attention_split(op: tensor.AttentionSplitOp, limits: Limits) -> Tiling:
    batch, _, heads, _ = tensor.shape_of(op.q)
    kv = tensor.shape_of(op.k)[2]
    splits = tensor.shape_of(op.acc)[3]
    q = {0: Cut(1, 1), 2: Cut(2, heads // kv)}
    k = {0: Cut(1, 1), 2: Cut(2, 1)}
    chunk = Cut(0, 1, start=op.first.value.data)
    cached = box(tensor.shape_of(op.k_cache), {0: Cut(1, 1), 1: Cut(2, 1), 3: chunk}, 3)
    part = {**q, 3: Cut(0, 1)}
    return Tiling(
        (splits, batch, kv),
        (
            box(tensor.shape_of(op.q), q, 3),
            *(box(tensor.shape_of(v), k, 3) for v in (op.k, op.v)),
            cached,
            cached,
            *(box(tensor.shape_of(v), {}, 3) for v in (op.position, *op.q_args, *op.k_args)),
        ),
        (
            box(tensor.shape_of(op.acc), part, 3),
            box(tensor.shape_of(op.stats), part, 3),
            cached,
            cached,
        ),
        origin=0,
    )


def _attention_join(op: tensor.AttentionJoinOp, limits: Limits) -> Tiling:
    batch, _, heads, _ = tensor.shape_of(op.q)
    kv = tensor.shape_of(op.k)[2]
    q = {0: Cut(0, 1), 2: Cut(1, heads // kv)}
    k = {0: Cut(0, 1), 2: Cut(1, 1)}
    first = Cut(0, 1, stride=0)
    cached = box(tensor.shape_of(op.k_cache), {0: Cut(0, 1), 1: Cut(1, 1), 3: first}, 2)
    return Tiling(
        (batch, kv),
        (
            *(box(tensor.shape_of(v), q, 2) for v in (op.acc, op.stats, op.q)),
            *(box(tensor.shape_of(v), k, 2) for v in (op.k, op.v)),
            cached,
            cached,
            *(box(tensor.shape_of(v), {}, 2) for v in (op.position, *op.q_args, *op.k_args)),
        ),
        (box(tensor.shape_of(op.result), q, 2), cached, cached),
    )


def _attention_merge(op: tensor.AttentionMergeOp, limits: Limits) -> Tiling:
    batch, _, heads, _, depth = tensor.shape_of(op.acc)
    size = ceil(batch * heads / limits.workers)
    # A task's chunks arrive all at once: what counts is how many bytes one worker takes in.
    columns = depth
    while columns % (2 * MERGED_COLUMNS) == 0 and (
        batch * ceil(heads / size) * 2 * (depth // columns) <= limits.workers
    ):
        columns //= 2
    cut: dict[int, Cut] = {2: Cut(0, size)}
    grid = [ceil(heads / size)]
    if columns < depth:
        grid.append(depth // columns)
    if batch > 1:
        grid.append(batch)
        cut[0] = Cut(len(grid) - 1, 1)
    acc, y = dict(cut), dict(cut)
    if columns < depth:
        acc[4], y[3] = Cut(1, columns), Cut(1, columns)
    rank = len(grid)
    return Tiling(
        tuple(grid),
        (
            box(tensor.shape_of(op.acc), acc, rank),
            box(tensor.shape_of(op.stats), cut, rank),
            box(tensor.shape_of(op.position), {}, rank),
        ),
        (box(tensor.shape_of(op.result), y, rank),),
    )


def _embedding(op: tensor.EmbeddingOp, limits: Limits) -> Tiling:
    batch = tensor.shape_of(op.result)[0]
    if op.position is None or batch == 1:
        return whole(op.operands, op.results)
    cut = {0: Cut(0, 1)}
    return Tiling(
        (batch,),
        (
            box(tensor.shape_of(op.table), {}, 1),
            box(tensor.shape_of(op.ids), cut, 1),
            box(tensor.shape_of(op.position), {}, 1),
        ),
        (box(tensor.shape_of(op.result), cut, 1),),
    )


def _argmax_partial(op: tensor.ArgmaxPartialOp, limits: Limits) -> Tiling:
    shape = tensor.shape_of(op.x)
    last = len(shape) - 1
    part = {last: Cut(0, 1)}
    return Tiling(
        (tensor.shape_of(op.value)[-1],),
        (box(shape, {last: Cut(0, op.chunk.value.data)}, 1),),
        tuple(box(tensor.shape_of(v), part, 1) for v in (op.value, op.index)),
        origin=0,
    )


def _argmax_join(op: tensor.ArgmaxJoinOp, limits: Limits) -> Tiling:
    shape = tensor.shape_of(op.value)
    last = len(shape) - 1
    candidates, part = {last: Cut(0, op.chunk.value.data)}, {last: Cut(0, 1)}
    return Tiling(
        (tensor.shape_of(op.value_result)[-1],),
        tuple(box(shape, candidates, 1) for _ in (op.value, op.index)),
        tuple(box(tensor.shape_of(v), part, 1) for v in op.results),
        origin=0,
    )


def _pieces(size: int, others: int, limits: Limits) -> int:
    """Elements along a dimension that one task of an independent-elements operator takes."""
    fewest = ceil(limits.min_elements / max(1, others))
    return min(size, max(fewest, ceil(size / limits.workers)))


def _rows(op: tensor.RmsNormOp | tensor.LayerNormOp | tensor.SoftmaxOp, limits: Limits) -> Tiling:
    shape = tensor.shape_of(op.result)
    if len(shape) < 2:
        return whole(op.operands, op.results)
    dim = max(range(len(shape) - 1), key=lambda d: shape[d])
    size = ceil(shape[dim] / limits.workers)
    cut = {dim: Cut(0, size)}
    return Tiling(
        (ceil(shape[dim] / size),),
        (
            box(tensor.shape_of(op.x), cut, 1),
            *(box(tensor.shape_of(v), {}, 1) for v in op.operands[1:]),
        ),
        (box(shape, cut, 1),),
    )


def _elementwise(op: tensor.ElementwiseOp, limits: Limits) -> Tiling:
    shape = tensor.shape_of(op.result)
    if not shape:
        return whole(op.operands, op.results)
    dim = max(range(len(shape)), key=lambda d: shape[d])
    size = _pieces(shape[dim], prod(shape) // max(1, shape[dim]), limits)
    cut = {dim: Cut(0, size)}
    return Tiling(
        (ceil(shape[dim] / size),),
        tuple(broadcast_box(v, shape, cut, 1) for v in op.inputs),
        (box(shape, cut, 1),),
    )


def _reduce(op: tensor.ReduceOp, limits: Limits) -> Tiling:
    shape = tensor.shape_of(op.x)
    reduced = op.dims.get_values()
    kept = [d for d in range(len(shape)) if d not in reduced and shape[d] > 1]
    if not kept:
        return whole(op.operands, op.results)
    dim = max(kept, key=lambda d: shape[d])
    size = _pieces(shape[dim], prod(shape) // shape[dim], limits)
    cut = {dim: Cut(0, size)}
    return Tiling(
        (ceil(shape[dim] / size),),
        (box(shape, cut, 1),),
        (box(tensor.shape_of(op.result), cut, 1),),
    )


def _matmul(op: tensor.MatmulOp, limits: Limits) -> Tiling:
    shape, rank = tensor.shape_of(op.result), len(tensor.shape_of(op.result))
    batch = [d for d in range(rank - 2) if shape[d] > 1]
    if batch:
        cut = {max(batch, key=lambda d: shape[d]): Cut(0, 1)}
        dim = next(iter(cut))
        return Tiling(
            (shape[dim],),
            tuple(broadcast_box(v, (*shape[:-2], 0, 0), cut, 1) for v in op.operands),
            (box(shape, cut, 1),),
        )
    size = _pieces(shape[-1], shape[-2], limits)
    rhs = tensor.shape_of(op.rhs)
    return Tiling(
        (ceil(shape[-1] / size),),
        (
            box(tensor.shape_of(op.lhs), {}, 1),
            box(rhs, {len(rhs) - 1: Cut(0, size)}, 1),
        ),
        (box(shape, {rank - 1: Cut(0, size)}, 1),),
    )


def _sdpa(op: tensor.SdpaOp, limits: Limits) -> Tiling:
    heads, kv = tensor.shape_of(op.q)[1], tensor.shape_of(op.k)[1]
    q, k = {1: Cut(0, heads // kv)}, {1: Cut(0, 1)}
    masks = () if op.mask is None else (broadcast_box(op.mask, (0, heads, 0, 0), q, 1),)
    return Tiling(
        (kv,),
        (
            box(tensor.shape_of(op.q), q, 1),
            *(box(tensor.shape_of(v), k, 1) for v in (op.k, op.v)),
            *masks,
        ),
        (box(tensor.shape_of(op.result), q, 1),),
    )


def _cache_append(op: tensor.CacheAppendOp, limits: Limits) -> Tiling:
    cut = {1: Cut(0, 1)}
    cache = box(tensor.shape_of(op.cache), cut, 1)
    return Tiling(
        (tensor.shape_of(op.cache)[1],),
        (
            cache,
            box(tensor.shape_of(op.new), cut, 1),
            box(tensor.shape_of(op.position), {}, 1),
        ),
        (cache,),
    )


_RULES: dict[type[Operation], Callable[..., Tiling]] = {
    tensor.LinearOp: _linear,
    tensor.ExpertLinearOp: expert_linear,
    tensor.AttentionOp: _attention,
    tensor.AttentionSplitOp: _attention_split,
    tensor.AttentionJoinOp: _attention_join,
    tensor.AttentionMergeOp: _attention_merge,
    tensor.ArgmaxPartialOp: _argmax_partial,
    tensor.ArgmaxJoinOp: _argmax_join,
    tensor.EmbeddingOp: _embedding,
    tensor.RmsNormOp: _rows,
    tensor.LayerNormOp: _rows,
    tensor.SoftmaxOp: _rows,
    tensor.ElementwiseOp: _elementwise,
    tensor.ReduceOp: _reduce,
    tensor.MatmulOp: _matmul,
    tensor.SdpaOp: _sdpa,
    tensor.CacheAppendOp: _cache_append,
}
RULES = Registry("tilings", "mpkir.passes.tiling.rules.RULES", ("op", "limits"), _RULES)
"""Rules by operator. An operator without a rule is one task."""


def tiling_of(op: Operation, limits: Limits) -> Tiling:
    """The tiling of a tensor operator."""
    rule = RULES.get(type(op))
    return whole(op.operands, op.results) if rule is None else rule(op, limits)
