"""Which skeleton computes which tensor operator, and the members that it asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from xdsl.dialects.builtin import IntegerType
from xdsl.ir import Operation, SSAValue

from mpkir.backends.cuda.address import broadcast, operand_type, rows_aligned, unravel
from mpkir.backends.cuda.attention import (
    print_attention,
    print_attention_merge,
    print_sdpa,
    vectors_of,
)
from mpkir.backends.cuda.body_printer import BodyPrinter
from mpkir.backends.cuda.experts import print_expert_linear, print_topk
from mpkir.backends.cuda.operand_printer import WORK
from mpkir.backends.cuda.streaming import print_linear
from mpkir.backends.offsets import clipped
from mpkir.backends.scalar import carried_type
from mpkir.dialects import tensor
from mpkir.dialects.tensor import element_type_of, shape_of
from mpkir.registry import Registry

_ROW = f"{WORK}, int row"


def print_members(p: BodyPrinter) -> str:
    """Print the members of a body; the name of its skeleton, a template of include/mpk.

    Raises MpkirError for an operator without a skeleton, or several that need one each.
    """
    whole = [op for op in p.body.tile_ops if type(op) in FORMS]
    if len(whole) > 1:
        raise p.refuse(whole[1], f"cannot share a body with '{whole[0].name}' on a GPU")
    if not whole:
        return _pointwise(p)
    return FORMS[type(whole[0])](p, whole[0])


def _pointwise(p: BodyPrinter) -> str:
    """Everything that is a function of an element's indices: arithmetic, views, copies."""
    counts = [prod(shape_of(value)) for value in p.yielded]
    p.constant("COUNT", max(counts, default=0))
    statements: list[str] = []
    if _gathers(p, counts):
        p.sent = {}
    for write, value in enumerate(p.yielded):
        shape = shape_of(value)
        indices = unravel("0" if prod(shape) == 1 else "i", shape)
        inner: list[str] = []
        stored = p.store(write, indices, p.evaluate(value, indices, inner))
        condition = "" if counts[write] == max(counts) else f"if (i < {counts[write]}) "
        statements.append(f"{condition}{{ {' '.join((*inner, stored))} }}")
    if p.sent is not None:
        _print_sent(p, p.sent)
        p.method(f"void element({WORK}, int i, const Sent& sent)", *statements)
        return "Gathered"
    p.method(f"void element({WORK}, int i)", *statements)
    return "Pointwise"


def _gathers(p: BodyPrinter, counts: Sequence[int]) -> bool:
    """Whether elements of what other ranks send can be fetched before all else."""
    flagged = [operand for operand in p.body.reads if operand.is_flagged]
    inside = not any(any(clipped(operand, p.body.grid)) for operand in flagged)
    return any(operand.is_exchange for operand in flagged) and inside and len(set(counts)) == 1


def _print_sent(p: BodyPrinter, sent: Mapping[tuple[int, tuple[str, ...]], str]) -> None:
    """The elements that are fetched, as a struct."""
    requests = [f"{name}.request({p.pointer(*which)});" for which, name in sent.items()]
    p.lines += [
        "struct Sent {",
        *(
            f"  mpk::Fetched<{operand_type(p.body.operands[number])}, 1> {name};"
            for (number, _), name in sent.items()
        ),
        f"  __device__ __forceinline__ void request({WORK}, int i) {{ {' '.join(requests)} }}",
        "  __device__ __forceinline__ bool arrived(mpk::u32 tag) const {",
        f"    return {' & '.join(f'{name}.arrived(tag)' for name in sent.values()) or 'true'};",
        "  }",
        "};",
    ]


def _row(x: SSAValue) -> list[str]:
    *lead, _ = shape_of(x)
    return unravel("0" if prod(lead) == 1 else "row", lead)


def _rows(p: BodyPrinter, x: SSAValue, result: SSAValue) -> None:
    """What operators along the last dimension have in common."""
    *lead, depth = shape_of(x)
    p.constant("ROWS", prod(lead))
    p.constant("K", depth)
    p.method(f"float load({_ROW}, int k)", f"return float({p.element(x, [*_row(x), 'k'])});")
    p.method(f"void store({_ROW}, int k, float y)", *p.stores(result, "y", [*_row(result), "k"]))


def _parameter(p: BodyPrinter, name: str, value: SSAValue | None) -> None:
    text = "1.0f" if value is None else p.element(value, ["k"])
    p.method(f"float {name}({WORK}, int k)", f"return {text};")


def _rms_norm(p: BodyPrinter, op: tensor.RmsNormOp) -> str:
    _rows(p, op.x, op.result)
    p.constant("eps", op.eps.value.data, "float")
    _parameter(p, "scale", op.weight)
    return "RmsNorm"


def _layer_norm(p: BodyPrinter, op: tensor.LayerNormOp) -> str:
    _rows(p, op.x, op.result)
    p.constant("eps", op.eps.value.data, "float")
    _parameter(p, "scale", op.weight)
    _parameter(p, "shift", op.bias)
    return "LayerNorm"


def _softmax(p: BodyPrinter, op: tensor.SoftmaxOp) -> str:
    _rows(p, op.x, op.result)
    return "RowSoftmax"


def _reduce(p: BodyPrinter, op: tensor.ReduceOp) -> str:
    element = element_type_of(op.x)
    if isinstance(element, IntegerType) or carried_type(element) != "float":
        raise p.refuse(op, "reduces elements that are not bf16, f16 or f32")
    shape, dims = shape_of(op.x), [int(d) for d in op.dims.get_values()]
    kept = [1 if d in dims else size for d, size in enumerate(shape)]
    gone = [size if d in dims else 1 for d, size in enumerate(shape)]
    row = unravel("0" if prod(kept) == 1 else "row", kept)
    inner = unravel("0" if prod(gone) == 1 else "k", gone)
    indices = [inner[d] if d in dims else row[d] for d in range(len(shape))]
    p.constant("ROWS", prod(kept))
    p.constant("K", prod(gone))
    mean = op.kind.data is tensor.ReductionKind.MEAN
    p.constant("factor", 1.0 / prod(gone) if mean else 1.0, "float")
    p.method(f"float load({_ROW}, int k)", f"return {p.element(op.x, indices)};")
    p.method(f"void store({_ROW}, int, float y)", *p.stores(op.result, "y", row))
    kind = {
        tensor.ReductionKind.SUM: "Sum",
        tensor.ReductionKind.MEAN: "Sum",
        tensor.ReductionKind.MAX: "Max",
        tensor.ReductionKind.MIN: "Min",
    }[op.kind.data]
    return f"Reduce{kind}"


def _matmul(p: BodyPrinter, op: tensor.MatmulOp) -> str:
    shape, a, b = shape_of(op.result), shape_of(op.lhs), shape_of(op.rhs)
    *batch, m, n = unravel("0" if prod(shape) == 1 else "i", shape)
    p.constant("COUNT", prod(shape))
    p.constant("K", a[-1])
    lhs = p.element(op.lhs, [*broadcast(batch, a[:-2]), m, "k"])
    rhs = p.element(op.rhs, [*broadcast(batch, b[:-2]), "k", n])
    p.method(f"float a({WORK}, int i, int k)", f"return float({lhs});")
    p.method(f"float b({WORK}, int i, int k)", f"return float({rhs});")
    stores = p.stores(op.result, "y", [*batch, m, n])
    p.method(f"void store({WORK}, int i, float y)", *stores)
    return "Matmul"


def _embedding(p: BodyPrinter, op: tensor.EmbeddingOp) -> str:
    *lead, columns = shape_of(op.result)
    table = p.read(op, op.table)
    rows = unravel("0" if prod(lead) == 1 else "t", lead)
    p.constant("T", prod(lead))
    p.constant("COLUMNS", columns)
    p.constant("LIMIT", shape_of(op.table)[0])
    at = rows if op.position is None else [f"int({p.element(op.position, rows[1:])})"]
    if op.position is None:
        at = rows[len(rows) - len(shape_of(op.ids)) :]
    elif len(shape_of(op.ids)) == 2:
        at = [rows[0], *at]
    p.method(f"mpk::i64 id({WORK}, int t)", f"return {p.element(op.ids, at)};")
    vectors = columns % 8 == 0 and p.is_weight(table)
    kind = vectors_of(p, table, 8, packed=True) if vectors else "void"
    p.lines.append(f"using Element = {kind};")
    if kind == "void":
        value = p.element(op.table, ["int(id)", "column"])
        p.method(f"float element({WORK}, mpk::i64 id, int column)", f"return {value};")
    else:
        place = p.pointer(table, ["int(id)", "column"])
        p.method(f"const Element* eight({WORK}, mpk::i64 id, int column)", f"return {place};")
        p.constant("packed", p.body.operands[table].is_packed, "bool")
    stores = p.stores(op.result, "value", [*rows, "column"])
    p.method(f"void store({WORK}, int t, int column, float value)", *stores)
    eight = _store_of_eight(p, op, rows)
    p.constant("stores_eight", eight is not None, "bool")
    if eight is not None:
        p.method(f"void store_eight({WORK}, int t, int column, const float (&value)[8])", eight)
    return "Embedding"


def _store_of_eight(p: BodyPrinter, op: tensor.EmbeddingOp, rows: Sequence[str]) -> str | None:
    """The statement that stores 8 neighbours at once, where all that becomes of them is that they
    are stored with marks."""
    if [p.source(value) for value in p.yielded] != [op.result]:
        return None
    number = len(p.body.reads)
    operand = p.body.operands[number]
    alone = operand.is_flagged and not operand.is_exchange
    if not alone or not rows_aligned(operand, 8) or any(clipped(operand, p.body.grid)):
        return None
    return f"mpk::publish_eight({p.pointer(number, [*rows, 'column'])}, value, w);"


def _argmax(p: BodyPrinter, op: tensor.ArgmaxOp) -> str:
    *lead, width = shape_of(op.x)
    p.constant("ROWS", prod(lead))
    p.constant("COUNT", width)
    p.constant("append", False, "bool")
    p.method(f"float value({_ROW}, int i)", f"return {p.element(op.x, [*_row(op.x), 'i'])};")
    p.method(f"mpk::i64 index({_ROW}, int i)", "return i;")
    p.method(f"void store({_ROW}, mpk::i64 y)", *p.stores(op.result, "y", _row(op.x)))
    return "ArgmaxMerge"


def _argmax_partial(p: BodyPrinter, op: tensor.ArgmaxPartialOp) -> str:
    *lead, width = shape_of(op.x)
    number = p.read_number(op.x)
    chunk = op.chunk.value.data
    p.constant("ROWS", prod(lead))
    p.constant("CHUNKS", -(-width // chunk))
    p.constant("CHUNK", chunk)
    p.constant("WIDTH", p.body.operands[number].shape[-1] if number is not None else width)
    origin = "0" if op.origin is None else f"int({p.element(op.origin, ['0'])})"
    p.method(f"int origin({WORK})", f"return {origin};")
    whole = number is not None and p.body.operands[number].shape[-1] % 4 == 0 and chunk % 4 == 0
    kind = vectors_of(p, number, 4, clips=True) if whole and number is not None else "void"
    p.lines.append(f"using X = {kind};")
    if kind == "void" or number is None:
        p.method(f"float x({_ROW}, int i)", f"return {p.element(op.x, [*_row(op.x), 'i'])};")
    else:
        four = p.pointer(number, [*_row(op.x), "i"])
        p.method(f"const X* four({_ROW}, int i)", f"return {four};")
    at = [*_row(op.value), "0" if shape_of(op.value)[-1] == 1 else "chunk"]
    stores = [*p.stores(op.value, "value", at), *p.stores(op.index, "index", at)]
    p.method(f"void store({_ROW}, int chunk, float value, mpk::i64 index)", *stores)
    return "ArgmaxPartial"


def _argmax_join(p: BodyPrinter, op: tensor.ArgmaxJoinOp) -> str:
    *lead, count = shape_of(op.value)
    number, chunk = p.read_number(op.value), op.chunk.value.data
    p.constant("ROWS", prod(lead))
    p.constant("CHUNKS", -(-count // chunk))
    p.constant("CHUNK", chunk)
    p.constant("COUNT", p.body.operands[number].shape[-1] if number is not None else count)
    origin = "0" if op.origin is None else f"int({p.element(op.origin, ['0'])})"
    p.method(f"int origin({WORK})", f"return {origin};")
    at = [*_row(op.value), "0" if count == 1 else "i"]
    p.method(f"float value({_ROW}, int i)", f"return {p.element(op.value, at)};")
    moved = f"mpk::i64(origin(w) * {chunk} + i) * {op.part.value.data}"
    p.method(f"mpk::i64 index({_ROW}, int i)", f"return {p.element(op.index, at)} + {moved};")
    at = [*_row(op.value), "0" if shape_of(op.value_result)[-1] == 1 else "chunk"]
    stores = [*p.stores(op.value_result, "value", at), *p.stores(op.index_result, "index", at)]
    p.method(f"void store({_ROW}, int chunk, float value, mpk::i64 index)", *stores)
    return "ArgmaxJoin"


def _sequence(
    p: BodyPrinter,
    op: Operation,
    sequence: SSAValue,
    result: SSAValue,
    position: SSAValue,
    stop: Any,
) -> None:
    """What appending a token, or one to each of several sequences, asks for."""
    number = p.read_plain(op, sequence)
    write = len(p.body.reads) + p.yielded.index(result)
    if not p.is_updated_in_place(number, write):
        raise p.refuse(op, "does not write the sequence that it reads")
    *batch, room = p.body.operands[number].shape
    p.constant("T", shape_of(position)[0])
    p.constant("SEQUENCES", prod(batch))
    p.constant("capacity", room, "mpk::i64")
    p.constant("marks", bool(batch), "bool")
    first = p.pointer(number, ["0"] * (len(batch) + 1))
    p.method(f"mpk::i64* sequence({WORK})", f"return {first};")
    tokens = [f"token == {int(token)}" for token in stop.get_values()]
    p.method("bool stops(mpk::i64 token)", f"return {' || '.join(tokens) or 'false'};")


def _argmax_merge(p: BodyPrinter, op: tensor.ArgmaxMergeOp) -> str:
    *lead, count = shape_of(op.value)
    p.constant("ROWS", prod(lead))
    p.constant("COUNT", count)
    at = [*_row(op.value), "0" if count == 1 else "i"]
    i = "int i"
    p.method(f"float value({_ROW}, {i})", f"return {p.element(op.value, at)};")
    moved = "" if op.parts is None else f" + mpk::i64(i / {op.part[0]}) * {op.part[1]}"
    p.method(f"mpk::i64 index({_ROW}, {i})", f"return {p.element(op.index, at)}{moved};")
    p.method(f"void store({_ROW}, mpk::i64 y)", *p.stores(op.result, "y", _row(op.value)))
    p.constant("append", op.sequence is not None, "bool")
    if op.sequence is not None and op.position is not None and op.sequence_result is not None:
        _sequence(p, op, op.sequence, op.sequence_result, op.position, op.stop)
    return "ArgmaxMerge"


def _sequence_append(p: BodyPrinter, op: tensor.SequenceAppendOp) -> str:
    _sequence(p, op, op.sequence, op.result, op.position, op.stop)
    last = [str(size - 1) for size in shape_of(op.token)]
    if len(shape_of(op.sequence)) == 2 and last[0] != "0":
        last[0] = "row"
    p.method(f"mpk::i64 token({_ROW})", f"return {p.element(op.token, last)};")
    return "SequenceAppend"


def _cache_append(p: BodyPrinter, op: tensor.CacheAppendOp) -> str:
    number = p.read(op, op.cache)
    write = len(p.body.reads) + p.yielded.index(op.result)
    if not p.is_updated_in_place(number, write):
        raise p.refuse(op, "does not write the cache that it reads")
    if p.body.operands[number].sizes[2] != p.body.operands[number].shape[2]:
        raise p.refuse(op, "covers a part of the cache's positions in one task")
    shape = shape_of(op.new)
    indices = unravel("0" if prod(shape) == 1 else "i", shape)
    rows = [indices[0], indices[1], "row", indices[3]]
    p.constant("COUNT", prod(shape))
    p.method(
        f"void element({WORK}, int i)",
        f"const int row = int({p.element(op.position, [indices[2]])});",
        f"mpk::store({p.pointer(write, rows)}, {p.element(op.new, indices)});",
    )
    return "Pointwise"


_FORMS: dict[type[Operation], Callable[[BodyPrinter, Any], str]] = {
    tensor.ArgmaxJoinOp: _argmax_join,
    tensor.ArgmaxMergeOp: _argmax_merge,
    tensor.ArgmaxOp: _argmax,
    tensor.ArgmaxPartialOp: _argmax_partial,
    tensor.AttentionMergeOp: print_attention_merge,
    tensor.AttentionOp: print_attention,
    tensor.AttentionSplitOp: print_attention,
    tensor.AttentionJoinOp: print_attention,
    tensor.CacheAppendOp: _cache_append,
    tensor.EmbeddingOp: _embedding,
    tensor.ExpertLinearOp: print_expert_linear,
    tensor.LayerNormOp: _layer_norm,
    tensor.LinearOp: print_linear,
    tensor.MatmulOp: _matmul,
    tensor.ReduceOp: _reduce,
    tensor.RmsNormOp: _rms_norm,
    tensor.SdpaOp: print_sdpa,
    tensor.SequenceAppendOp: _sequence_append,
    tensor.SoftmaxOp: _softmax,
    tensor.TopkOp: print_topk,
}

FORMS = Registry("cuda", "mpkir.backends.cuda.operators.FORMS", ("printer", "op"), _FORMS)
"""Functions that print the members that an operator's skeleton asks for, and name the skeleton."""
