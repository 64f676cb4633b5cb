"""What one task takes: bytes from where, stages, arithmetic; from its regions and its body.

Everything is counted for each task of a family at once, ragged last tiles included. Weights and
states come from DRAM, the first time that a task of the family touches them; what another task of
the family has touched before, and activations, from the L2 cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import TypeGuard

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import FixedBitwidthType, MemRefType, TensorType
from xdsl.ir import BlockArgument, Operation, SSAValue

from mpkir.analysis.families import Access, Family, Ints
from mpkir.analysis.regions import Boxes, boxes_of
from mpkir.dialects import task, tensor
from mpkir.dialects.notation import define


class Loop(Enum):
    """What kind of loop a task's body is."""

    JOIN = "join"
    """No body: it only passes events on."""
    STREAM = "stream"
    """Weights from the ring times a vector in registers."""
    DIRECT = "direct"
    """Weights straight from memory times a vector."""
    ATTENTION = "attention"
    """Scores over rows of a cache, then a weighted sum; joining such sums."""
    REDUCE = "reduce"
    """Sums or maxima that all threads of a worker make together."""
    MAP = "map"
    """Each element by itself: arithmetic, copies, look-ups."""


_ATTENTION = (
    tensor.AttentionOp,
    tensor.AttentionSplitOp,
    tensor.AttentionJoinOp,
    tensor.AttentionMergeOp,
    tensor.SdpaOp,
)
_DIRECT = (tensor.LinearOp, tensor.ExpertLinearOp)
_REDUCE = (
    tensor.MatmulOp,
    tensor.TopkOp,
    tensor.RmsNormOp,
    tensor.LayerNormOp,
    tensor.SoftmaxOp,
    tensor.ReduceOp,
    tensor.ArgmaxOp,
    tensor.ArgmaxPartialOp,
    tensor.ArgmaxJoinOp,
    tensor.ArgmaxMergeOp,
)


@dataclass(frozen=True, eq=False)
class FamilyCost:
    """What the tasks of a family take; arrays are [tasks], in bytes unless they say otherwise."""

    loop: Loop
    streamed: Ints
    """Weights that pass through the ring."""
    stages: Ints
    """In how many copies (a number)."""
    stage_bytes: int
    """Of a whole stage."""
    is_packed: bool
    """Whether these weights lie as tensor cores take them."""
    columns: int
    """Of a row of them (a number)."""
    tokens: int
    """Rows of what they multiply (a number)."""
    dram: Ints
    """Read past the ring from DRAM: states, and weights that no earlier task of the family reads.
    """
    common: int
    """Read from L2, the same for all tasks: once for those that follow each other on a worker."""
    inputs: frozenset[str]
    """The buffers of activations that these come from."""
    is_polled: bool
    """Whether some of what it reads carries marks."""
    own: Ints
    """Read from L2 by this task: activations, and weights that an earlier task has read."""
    written: Ints
    flops: Ints
    """Arithmetic operations on scalars (a number)."""
    rows: Ints
    """Rows of its cache that attention scores (a number)."""
    is_empty: npt.NDArray[np.bool_]
    """Whether it is a chunk of attention none of whose rows is of the step's position or an earlier
    one: it looks for nothing and stores nothing, and nobody looks for what it has."""
    joined: int
    """Parts of a split attention that the task joins (a number)."""
    shared: int
    """Shared memory that the task needs at least: a stage of each streamed weight."""

    @property
    def bytes(self) -> Ints:
        """All bytes from DRAM."""
        return self.streamed + self.dram


def element_bits(access: Access) -> int:
    """Bits of an element of the buffer as it lies in memory, in a flagged one with its mark, which
    takes no room in a brief one; an index counts as 64."""
    assert isinstance(access.buffer.result.type, MemRefType)
    element = access.buffer.result.type.get_element_type()
    bits = element.bitwidth if isinstance(element, FixedBitwidthType) else 64
    has_tag = access.buffer.flagged is not None and access.buffer.brief is None
    return 2 * bits if has_tag else bits


def cost_of(family: Family, position: int | None = None) -> FamilyCost:
    """The cost of a family's tasks in a step at this position; with None, of full caches."""
    zero = np.zeros(family.size, np.int64)
    stream = family.op.stream
    streamed, dram, own, written = zero.copy(), zero.copy(), zero.copy(), zero.copy()
    stages, stage_bytes, columns, common = zero.copy(), 0, 0, 0
    is_packed = is_polled = False
    inputs: set[str] = set()
    used = _used(family, position)
    for number, access in enumerate(family.accesses):
        boxes = boxes_of(access, family.coordinates)
        use = used.get(number)
        sizes = boxes.high - boxes.low if use is None else use.sizes(boxes.low, boxes.high)
        touched = sizes.prod(axis=1) // access.shared_by
        elements = np.bincount(boxes.tasks, touched, family.size).astype(np.int64)
        size = (elements * element_bits(access) + 7) // 8
        is_polled |= not access.is_write and access.buffer.flagged is not None
        if access.is_write:
            written += size
        elif stream is not None and number in stream.reads:
            rows, parts = stream.rows.data, stream.parts.data
            columns = access.shape[1]
            row_bytes = columns * element_bits(access) // 8
            is_packed = access.buffer.packed is not None
            streamed += size
            stages += -(-(size // row_bytes) // rows) * parts
            stage_bytes = rows * row_bytes // parts
        elif access.buffer.kind.data in (task.BufferKind.SCRATCH, task.BufferKind.OUTPUT):
            if _is_constant(access):
                # Of what lies in two planes a product multiplies the first.
                parts = 1 if access.buffer.planes is None or stream is None else 2
                common += int(size.max(initial=0)) // parts
                inputs.add(access.buffer.sym.data)
            else:
                own += size
        else:
            is_chosen = use is not None and use.is_chosen
            first = size > 0 if is_chosen else _first_touch(boxes, family.size)
            dram += np.where(first, size, 0)
            if _is_constant(access):
                common += int(size.max(initial=0))
            else:
                own += np.where(first, 0, size)
    rows = _scored_rows(family, used)
    return FamilyCost(
        loop_of(family),
        streamed,
        stages,
        stage_bytes,
        is_packed,
        columns,
        _tokens(family),
        dram,
        common,
        frozenset(inputs),
        is_polled,
        own,
        written,
        _flops(family, rows),
        rows,
        (rows == 0) & any(map(_reads_cache, family.op.body.block.ops)),
        _joined(family, position),
        stage_bytes * (len(stream.reads) if stream else 0),
    )


def _tokens(family: Family) -> int:
    """Rows of what a family's product multiplies; 0 if it is none."""
    linears = (op for op in family.op.body.block.ops if isinstance(op, tensor.LinearOp))
    return max((prod(tensor.shape_of(op.x)[:-1]) for op in linears), default=0)


def _flops(family: Family, rows: Ints) -> Ints:
    """Arithmetic of every task; of attention over the rows of its cache that it uses."""
    result = np.zeros(family.size, np.int64)
    for op in list(family.op.body.block.ops)[:-1]:
        if _reads_cache(op):
            for each in np.unique(rows).tolist():
                result[rows == each] += flops_of(op, each)
        else:
            result += flops_of(op)
    return result


def _scored_rows(family: Family, used: dict[int, _Use]) -> Ints:
    """How many rows of its cache each task's attention scores."""
    result = np.zeros(family.size, np.int64)
    for op in family.op.body.block.ops:
        if _reads_cache(op):
            assert isinstance(op.k_cache, BlockArgument)
            number = op.k_cache.index
            boxes = boxes_of(family.accesses[number], family.coordinates)
            sizes = used[number].sizes(boxes.low, boxes.high)
            result[boxes.tasks] = sizes[:, 2:-1].prod(axis=1)
    return result


def _reads_cache(
    op: Operation,
) -> TypeGuard[tensor.AttentionOp | tensor.AttentionSplitOp | tensor.AttentionJoinOp]:
    return isinstance(
        op, tensor.AttentionOp | tensor.AttentionSplitOp | tensor.AttentionJoinOp
    ) and isinstance(op.k_cache, BlockArgument)


def _joined(family: Family, position: int | None) -> int:
    """How many parts of split attentions a task joins; of chunks that have a task of their own,
    those with rows at this position."""
    parts = 0
    for op in family.op.body.block.ops:
        if isinstance(op, tensor.AttentionMergeOp):
            parts += tensor.shape_of(op.acc)[3]
        elif isinstance(op, tensor.AttentionJoinOp):
            others = tensor.shape_of(op.acc)[3]
            if position is not None:
                _, _, *in_turn, rows, _ = tensor.shape_of(op.k_cache)
                block = rows if in_turn else -(-rows // op.chunks.value.data)
                others = min(others, position // block)
            parts += others
    return parts


def loop_of(family: Family) -> Loop:
    """The kind of loop of a family's body."""
    ops = list(family.op.body.block.ops)[:-1]
    if not ops:
        return Loop.JOIN
    if family.op.stream is not None:
        return Loop.STREAM
    if any(isinstance(op, _DIRECT) for op in ops):
        return Loop.DIRECT
    if any(isinstance(op, _ATTENTION) for op in ops):
        return Loop.ATTENTION
    return Loop.REDUCE if any(isinstance(op, _REDUCE) for op in ops) else Loop.MAP


def _is_constant(access: Access) -> bool:
    """Whether all tasks touch the same box."""
    return not any(expression.used_dims() for expression in access.box.offsets.data.results)


def _first_touch(boxes: Boxes, tasks: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which tasks are the first to touch their box."""
    first = np.zeros(tasks, np.bool_)
    if len(boxes):
        _, where = np.unique(boxes.low, axis=0, return_index=True)
        first[boxes.tasks[where]] = True
    return first


# ---- operators that touch only part of what they are given ----

_Sizes = Callable[[Ints, Ints], Ints]
"""From low and high of boxes, [rows, rank], the sizes of what is touched of each."""


@dataclass(frozen=True)
class _Use:
    """How much of an access is touched, and whether data choose what."""

    sizes: _Sizes
    is_chosen: bool = False


def _used(family: Family, position: int | None) -> dict[int, _Use]:
    """By number of the access, for those of which data decide how much is touched."""
    result: dict[int, _Use] = {}
    block = family.op.body.block
    assert block.last_op is not None
    outputs = {value: number for number, value in enumerate(block.last_op.operands)}

    def note(value: SSAValue, sizes: _Sizes, is_chosen: bool = False) -> None:
        if isinstance(value, BlockArgument):
            result[value.index] = _Use(sizes, is_chosen)
        elif value in outputs:
            result[len(family.op.reads) + outputs[value]] = _Use(sizes)

    for op in block.ops:
        match op:
            case tensor.AttentionOp() | tensor.AttentionSplitOp() | tensor.AttentionJoinOp():
                tokens = tensor.shape_of(op.q)[1]
                window = None if op.window is None else op.window.value.data
                chunks = 1 if isinstance(op, tensor.AttentionOp) else op.chunks.value.data
                for cache in (op.k_cache, op.v_cache):
                    note(cache, _cache_rows(position, tokens, window, chunks))
                for cache in (op.k_result, op.v_result):
                    note(cache, _new_rows(tokens))
            case tensor.CacheAppendOp():
                note(op.cache, _rows(0, 2))
                note(op.result, _rows(tensor.shape_of(op.new)[2], 2))
            case tensor.EmbeddingOp():
                tokens = prod(tensor.shape_of(op.result)[:-1])
                note(op.table, _rows(tokens, 0), True)
                if op.position is not None:
                    note(op.ids, _rows(prod(tensor.shape_of(op.position)), -1))
            case tensor.ExpertLinearOp():
                for weight in op.weights:
                    note(weight, _rows(op.slots, 0), True)
            case tensor.SequenceReadOp():
                note(op.sequence, _rows(prod(tensor.shape_of(op.position)), -1))
            case tensor.SequenceAppendOp():
                note(op.sequence, _rows(1, -1))
                note(op.result, _rows(1, -1))
            case tensor.ArgmaxMergeOp(sequence=sequence, sequence_result=appended):
                if sequence is not None and appended is not None:
                    note(sequence, _rows(1, -1))
                    note(appended, _rows(1, -1))
            case _:
                pass
    return result


def _rows(count: int, dim: int) -> _Sizes:
    """At most so many rows along a dimension."""

    def sizes(low: Ints, high: Ints) -> Ints:
        size = high - low
        size[:, dim] = np.minimum(size[:, dim], count)
        return size

    return sizes


def _new_rows(tokens: int) -> _Sizes:
    """The rows of caches that a step appends, in blocks or not."""

    def sizes(low: Ints, high: Ints) -> Ints:
        size = high - low
        rows = size[:, 2:-1].prod(axis=1)
        size[:, 2:-1] = 1
        size[:, 2] = np.minimum(rows, tokens)
        return size

    return sizes


def _cache_rows(position: int | None, tokens: int, window: int | None, chunks: int) -> _Sizes:
    """Rows of caches [B, KV, C, D] up to the last token's own position, in its window; or of
    [B, KV, R, S, P, D], in which blocks of P rows are dealt to `chunks` in turn.
    """

    def before(low: Ints, high: Ints, position: int) -> Ints:
        if low.shape[1] == 4:
            return np.clip(position - low[:, 2], 0, high[:, 2] - low[:, 2])
        block = high[:, 4] - low[:, 4]
        first = low[:, 3] * block
        rounds, rest = np.divmod(position, chunks * block)
        whole = np.clip(rounds - low[:, 2], 0, high[:, 2] - low[:, 2])
        here = high[:, 3] - low[:, 3]
        partial = np.clip(rest - first, 0, here * block) * (rounds < high[:, 2])
        return whole * here * block + partial

    def sizes(low: Ints, high: Ints) -> Ints:
        size = high - low
        if position is not None:
            begin = 0 if window is None else max(0, position - window + 1)
            used = before(low, high, position + tokens) - before(low, high, begin)
            size[:, 2:-1] = 1
            size[:, 2] = used
        return size

    return sizes


# ---- arithmetic ----


def flops_of(op: Operation, cache_rows: int | None = None) -> int:
    """Scalar operations of an operator on the tiles of its operands; with `cache_rows`, of
    attention over so many rows of its cache instead of all.
    """
    match op:
        case tensor.LinearOp():
            rows = prod(tensor.shape_of(op.x)[:-1])
            columns, k = tensor.shape_of(op.weights[0])
            definition = define(tensor.LinearOp.NOTATION)
            products = definition.arithmetic({"r": rows, "n": columns, "k": k}) * len(op.weights)
            compared = 0 if op.best is None else rows * columns
            return products + _inside(op, rows * columns) + compared
        case tensor.ExpertLinearOp():
            _, columns, k = tensor.shape_of(op.weights[0])
            definition = define(tensor.ExpertLinearOp.NOTATION)
            products = definition.arithmetic({"s": op.slots, "n": columns, "k": k})
            return products * len(op.weights) + _inside(op, op.rows * columns)
        case tensor.MatmulOp():
            *batch, m, n = tensor.shape_of(op.result)
            k = tensor.shape_of(op.lhs)[-1]
            definition = define(tensor.MatmulOp.NOTATION)
            return definition.arithmetic({"b": prod(batch), "m": m, "n": n, "k": k})
        case tensor.AttentionOp() | tensor.AttentionSplitOp() | tensor.AttentionJoinOp():
            _, tokens, heads, size = tensor.shape_of(op.q)
            rows = prod(tensor.shape_of(op.k_cache)[2:-1]) if cache_rows is None else cache_rows
            return 4 * tokens * heads * size * rows + _inside(op, 1)
        case tensor.SdpaOp():
            return 4 * prod(tensor.shape_of(op.q)) * tensor.shape_of(op.k)[2]
        case tensor.ElementwiseOp():
            return _inside(op, prod(tensor.shape_of(op.results[0])))
        case tensor.RmsNormOp() | tensor.LayerNormOp() | tensor.SoftmaxOp() | tensor.RotaryOp():
            return 4 * prod(tensor.shape_of(op.results[0]))
        case _ if not op.operands:
            return 0
        case _:
            touched = (*op.operands, *op.results)
            return max((prod(tensor.shape_of(v)) for v in touched if _is_tile(v)), default=0)


def _is_tile(value: SSAValue) -> bool:
    """Whether a value is a tensor that the body computes or holds, not one it looks a row up in."""
    return isinstance(value.type, TensorType) and not any(
        isinstance(use.operation, tensor.EmbeddingOp | tensor.SequenceAppendOp)
        and use.operation.operands[0] is value
        for use in value.uses
    )


def _inside(op: Operation, elements: int) -> int:
    """Arithmetic in an operator's regions: scalars count once for each element, tensors whole."""
    total = 0
    for region in op.regions:
        for inner in list(region.block.ops)[:-1]:
            is_tensor = inner.name.startswith(f"{tensor.Tensor.name}.")
            total += flops_of(inner) if is_tensor else elements
    return total
