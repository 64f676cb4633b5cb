"""Attention bodies: one key head over the cache or a chunk of it, the join of chunks, no cache."""

from __future__ import annotations

from math import prod

from xdsl.dialects.builtin import BFloat16Type, Float16Type, Float32Type, IntegerType
from xdsl.ir import Operation, Region, SSAValue

from mpkir.backends.cuda.address import (
    broadcast,
    operand_type,
    rows_aligned,
    unravel,
)
from mpkir.backends.cuda.body_printer import BodyPrinter, element_of
from mpkir.backends.cuda.operand_printer import DEVICE, WORK, float_literal
from mpkir.backends.cuda.row_functions import scale_functions
from mpkir.backends.offsets import clipped
from mpkir.dialects import tensor
from mpkir.dialects.tensor import element_type_of, shape_of

_T = f"{WORK}, int t"
_TG = f"{_T}, int g"
_RUN = 32
"""Rows of a cache that is not split that are asked for ahead at once."""


def print_attention(
    p: BodyPrinter, op: tensor.AttentionOp | tensor.AttentionSplitOp | tensor.AttentionJoinOp
) -> str:
    """The members of an attention body; its skeleton."""
    batch, tokens, heads, depth = shape_of(op.q)
    if batch != 1 or shape_of(op.k)[2] != 1:
        raise p.refuse(op, "covers several sequences or several key heads in one task")
    if depth % 8 or depth > 256:
        raise p.refuse(op, "has a head size that is no multiple of 8 up to 256")
    is_split = isinstance(op, tensor.AttentionSplitOp)
    k_cache, v_cache = p.read_plain(op, op.k_cache), p.read_plain(op, op.v_cache)
    cache = p.body.operands[k_cache]
    if not isinstance(cache.element_type, BFloat16Type | Float16Type | Float32Type):
        raise p.refuse(op, "has a cache that is not bf16, f16 or f32")
    if cache.is_flagged:
        raise p.refuse(op, "has a cache whose elements carry marks")
    _check_in_place(p, op, k_cache, op.k_result)
    _check_in_place(p, op, v_cache, op.v_result)
    p.constant("T", tokens)
    p.constant("D", depth)
    p.constant("G", heads)
    p.constant("WINDOW", 0 if op.window is None else op.window.value.data)
    p.constant("scale", op.scale.value.data, "float")
    p.constant("soft_cap", 0.0 if op.soft_cap is None else op.soft_cap.value.data, "float")
    p.constant("split", is_split, "bool")
    p.constant("joins", isinstance(op, tensor.AttentionJoinOp), "bool")
    p.lines.append(f"using Cache = {element_of(cache.element_type)};")
    _rows_of_cache(p, op, k_cache, v_cache)
    token = "0" if tokens == 1 else "t"
    head = "0" if heads == 1 else "g"
    q = _prepared(p, "q_prologue", op.q_prologue, op.q, tuple(op.q_args))
    k = _prepared(p, "k_prologue", op.k_prologue, op.k, tuple(op.k_args))
    p.constant("polled", any(operand.is_flagged for operand in p.body.reads), "bool")
    _step_rows(p, "Query", "q", _TG, q, ["0", token, head])
    _step_rows(p, "Key", "k", _T, k, ["0", token, "0"])
    _step_rows(p, "Value", "v", _T, op.v, ["0", token, "0"])
    if is_split:
        acc, stats = (p.stores(v, "y", ["0", token, head, "0", i]) for v, i in _parts(op))
        p.method(f"void store_acc({_TG}, int d, float y)", *acc)
        p.method(f"void store_stats({_TG}, int i, float y)", *stats)
    else:
        statements = p.stores(op.result, "y", ["0", token, head, "d"])
        p.method(f"void store({_TG}, int d, float y)", *statements)
    if isinstance(op, tensor.AttentionJoinOp):
        if tokens != 1 or depth % 32:
            raise p.refuse(op, "joins several tokens in one task, or heads of no multiple of 32")
        head = "0" if heads == 1 else "row"
        _other_chunks(p, op, op.acc, op.stats, ["0", "0", head], first=1, block=op.block)
    return "Attention"


def _parts(op: tensor.AttentionSplitOp) -> tuple[tuple[SSAValue, str], tuple[SSAValue, str]]:
    return (op.acc, "d"), (op.stats, "i")


def _rows_of_cache(
    p: BodyPrinter,
    op: tensor.AttentionOp | tensor.AttentionSplitOp | tensor.AttentionJoinOp,
    k_cache: int,
    v_cache: int,
) -> None:
    """Which positions a task's rows are of, and where they are."""
    cache = p.body.operands[k_cache]
    if not isinstance(op, tensor.AttentionOp):
        _, _, rounds, here, block, _ = cache.sizes
        if here != 1 or rounds != cache.shape[2]:
            raise p.refuse(op, "covers other than one chunk of the cache in one task")
        origin = "0"
        if isinstance(op, tensor.AttentionSplitOp):
            own = "0" if op.origin is None else f"int({p.element(op.origin, ['0'])})"
            origin = f"({own} + {op.first.value.data})"
        stride = op.chunks.value.data * block
        p.method(
            f"int rows_before({WORK}, mpk::i64 position)",
            f"if (position >= {rounds * stride}) return {rounds * block};",
            f"const int round = int(position / {stride});",
            f"const int rest = int(position % {stride}) - {origin} * {block};",
            f"return round * {block} + (rest < 0 ? 0 : rest > {block} ? {block} : rest);",
        )
        along = f"row / {block} * {stride * cache.shape[5]} + row % {block} * {cache.shape[5]}"
        run, pitch = block, cache.shape[5]
    else:
        rows = cache.sizes[2]
        if rows != cache.shape[2]:
            raise p.refuse(op, "covers a part of the cache in one task")
        p.method(
            f"int rows_before({WORK}, mpk::i64 position)",
            f"return position > {rows} ? {rows} : int(position);",
        )
        along = f"row * {cache.shape[3]}"
        run, pitch = min(rows, _RUN), cache.shape[3]
    p.constant("RUN", run if pitch == cache.sizes[-1] else 1)
    p.method("int offset(int row)", f"return {along};")
    for name, number in (("k_cache", k_cache), ("v_cache", v_cache)):
        first = p.pointer(number, ["0"] * len(cache.sizes))
        p.method(f"Cache* {name}({WORK})", f"return {first};")


def _step_rows(
    p: BodyPrinter, type: str, name: str, parameters: str, value: SSAValue, row: list[str]
) -> None:
    """Rows of q, k or v of the step: where they lie if in vectors, or element by element."""
    number = p.read_number(value)
    kind = "void" if number is None else vectors_of(p, number, 8)
    p.lines.append(f"using {type} = {kind};")
    if kind == "void" or number is None:
        element = p.element(value, [*row, "d"])
        p.method(f"float {name}({parameters}, int d)", f"return {element};")
    else:
        address = p.pointer(number, [*row, "0"])
        p.method(f"const {type}* {name}_row({parameters})", f"return {address};")


def vectors_of(
    p: BodyPrinter, number: int, elements: int, *, packed: bool = False, clips: bool = False
) -> str:
    """The type of an operand's elements in memory if it can be read in vectors of so many, or
    "void".

    packed   vectors of a packed operand are fine
    clips    boxes may reach over the buffer's end, the skeleton sees to it
    """
    operand = p.body.operands[number]
    is_float = isinstance(operand.element_type, BFloat16Type | Float16Type | Float32Type)
    is_inside = clips or not any(clipped(operand, p.body.grid))
    is_plain = packed or not operand.is_packed
    aligned = is_float and is_inside and is_plain and rows_aligned(operand, elements)
    return operand_type(operand) if aligned else "void"


def _written(p: BodyPrinter, op: Operation, value: SSAValue) -> int:
    if value not in p.yielded:
        raise p.refuse(op, "computes something that its body does not yield")
    return p.yielded.index(value)


def _check_in_place(p: BodyPrinter, op: Operation, read: int, result: SSAValue) -> None:
    write = len(p.body.reads) + _written(p, op, result)
    if not p.is_updated_in_place(read, write):
        raise p.refuse(op, "does not write the cache that it reads")


def _prepared(
    p: BodyPrinter, name: str, region: Region | None, x: SSAValue, extra: tuple[SSAValue, ...]
) -> SSAValue:
    """Print what is done to q or k: a norm over the head, then rotary, each if it is there.

    The value before both, whose elements the skeleton asks for.
    """
    norm: tensor.RmsNormOp | None = None
    rotary: tensor.RotaryOp | None = None
    if region is not None:
        p.enter(region.block, (x, *extra))
        last = region.block.last_op
        assert isinstance(last, tensor.YieldOp)
        x = last.arguments[0]
        if isinstance(x.owner, tensor.RotaryOp):
            rotary = x.owner
            x = rotary.x
        if isinstance(x.owner, tensor.RmsNormOp):
            norm = x.owner
            x = norm.x
    lines = [f"static constexpr bool norm = {'true' if norm else 'false'};"]
    if norm is not None:
        lines.append(f"static constexpr float eps = {float_literal(norm.eps.value.data)};")
        lines += scale_functions(p, norm.weight)
    kind, turned, factor, frequencies = "none", 0, 1.0, "nullptr"
    if rotary is not None:
        kind = "half" if rotary.interleaved is None else "interleaved"
        turned, factor = 2 * shape_of(rotary.inv_freq)[0], rotary.scale.value.data
        if not isinstance(p.source(rotary.position).owner, tensor.PositionOp):
            raise p.refuse(rotary, "turns by other positions than the step's")
        frequencies = p.pointer(p.read_plain(rotary, rotary.inv_freq), ["0"])
    lines += [
        f"static constexpr mpk::Rotary rotary = mpk::Rotary::{kind};",
        f"static constexpr int R = {turned};",
        f"static constexpr float factor = {float_literal(factor)};",
        f"{DEVICE} const float* inv_freq({WORK}) {{ return {frequencies}; }}",
    ]
    p.lines += [f"struct {name} {{", *(f"  {line}" for line in lines), "};"]
    return x


def _other_chunks(
    p: BodyPrinter,
    op: tensor.AttentionMergeOp | tensor.AttentionJoinOp,
    acc: SSAValue,
    stats: SSAValue,
    row: list[str],
    *,
    first: int,
    block: int,
) -> None:
    """Where the results of chunks from number `first` on are, and how many may have something."""
    splits = shape_of(acc)[3]
    split = "0" if splits == 1 else "split"
    parameters = f"{WORK}, int row"
    p.constant("SPLITS", splits)
    for type, name, value in (("Acc", "acc", acc), ("Stats", "stats", stats)):
        number = p.read(op, value)
        kind = vectors_of(p, number, 2)
        if kind == "void":
            raise p.refuse(op, f"needs pairs of {value.type} side by side in memory")
        p.lines.append(f"using {type} = {kind};")
        p.method(
            f"const {type}* {name}({parameters}, int split)",
            f"return {p.pointer(number, [*row, split, '0'])};",
        )
    if not isinstance(p.source(op.position).owner, tensor.PositionOp):
        raise p.refuse(op, "is at other positions than the step's")
    last = shape_of(op.position)[0] - 1
    p.method(
        f"int parts({WORK})",
        f"const mpk::i64 parts = (w.position + {last}) / {block} + {1 - first};",
        f"return parts > {splits} ? {splits} : int(parts);",
    )


def print_attention_merge(p: BodyPrinter, op: tensor.AttentionMergeOp) -> str:
    """The members of a body that joins the chunks of a split attention; its skeleton."""
    *rows, _, depth = shape_of(op.acc)
    row = p.lead("0" if prod(rows) == 1 else "row", rows)
    p.constant("ROWS", prod(rows))
    p.constant("D", depth)
    _other_chunks(p, op, op.acc, op.stats, row, first=0, block=op.block.value.data)
    parameters = f"{WORK}, int row"
    p.method(f"void store({parameters}, int d, float y)", *p.stores(op.result, "y", [*row, "d"]))
    return "AttentionMerge"


def print_sdpa(p: BodyPrinter, op: tensor.SdpaOp) -> str:
    """The members of an attention without a cache; its skeleton."""
    shape, (_, groups, length, depth) = shape_of(op.q), shape_of(op.k)
    batch, head, token, _ = unravel("row", (*shape[:3], 1))
    own = head if groups == shape[1] else f"({head} / {shape[1] // groups})"
    own = "0" if groups == 1 else own
    p.constant("ROWS", prod(shape[:3]))
    p.constant("L", length)
    p.constant("D", depth)
    p.constant("scale", op.scale.value.data, "float")
    row = f"{WORK}, int row"
    query = p.element(op.q, [batch, head, token, "d"])
    p.method(f"float q({row}, int d)", f"return {query};")
    for name, value in (("k", op.k), ("v", op.v)):
        each = p.element(value, [batch, own, "j", "d"])
        p.method(f"float {name}({row}, int j, int d)", f"return {each};")
    bias = "0.0f"
    if op.mask is not None:
        mask = p.element(op.mask, broadcast([batch, head, token, "j"], shape_of(op.mask)))
        is_flag = element_type_of(op.mask) == IntegerType(1)
        bias = f"{mask} ? 0.0f : -mpk::infinity()" if is_flag else mask
    if op.causal is not None:
        bias = f"j > {token} ? -mpk::infinity() : {bias}"
    p.method(f"float bias({row}, int j)", f"return {bias};")
    stores = p.stores(op.result, "y", [batch, head, token, "d"])
    p.method(f"void store({row}, int d, float y)", *stores)
    return "Sdpa"
