"""Attention bodies: one key head over the cache or a chunk of it, the join of chunks, no cache."""

from __future__ import annotations

from math import prod

from xdsl.dialects.builtin import BFloat16Type, Float16Type, Float32Type, IntegerType
from xdsl.ir import Operation, Region, SSAValue

from mpkir.backends.cuda.address import affine, broadcast, unravel
from mpkir.backends.cuda.body_printer import (
    DEVICE,
    WORK,
    BodyPrinter,
    element_of,
    float_literal,
)
from mpkir.dialects import tensor
from mpkir.dialects.tensor import element_type_of, shape_of

_T = f"{WORK}, int t"
_TG = f"{_T}, int g"


def print_attention(p: BodyPrinter, op: tensor.AttentionOp | tensor.AttentionSplitOp) -> str:
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
    rows = cache.sizes[2]
    if is_split and rows != op.chunk.value.data:
        raise p.refuse(op, "covers several chunks of the cache in one task")
    _check_in_place(p, op, k_cache, op.k_result)
    _check_in_place(p, op, v_cache, op.v_result)
    p.constant("T", tokens)
    p.constant("D", depth)
    p.constant("G", heads)
    p.constant("CHUNK", rows)
    p.constant("WINDOW", 0 if op.window is None else op.window.value.data)
    p.constant("scale", op.scale.value.data, "float")
    p.constant("soft_cap", 0.0 if op.soft_cap is None else op.soft_cap.value.data, "float")
    p.constant("split", is_split, "bool")
    p.lines.append(f"using Cache = {element_of(cache.element_type)};")
    p.method(f"mpk::i64 first({WORK})", f"return {affine(cache.offsets.results[2], 'w.index')};")
    for name, number in (("k_cache", k_cache), ("v_cache", v_cache)):
        row = p.pointer(number, ["0", "0", "int(position - first(w))", "0"])
        p.method(f"Cache* {name}({WORK}, mpk::i64 position)", f"return {row};")
    token = "0" if tokens == 1 else "t"
    head = "0" if heads == 1 else "g"
    q = _prepared(p, "q_prologue", op.q_prologue, op.q, tuple(op.q_args))
    k = _prepared(p, "k_prologue", op.k_prologue, op.k, tuple(op.k_args))
    p.method(f"float q({_TG}, int d)", f"return {p.element(q, ['0', token, head, 'd'])};")
    p.method(f"float k({_T}, int d)", f"return {p.element(k, ['0', token, '0', 'd'])};")
    p.method(f"float v({_T}, int d)", f"return {p.element(op.v, ['0', token, '0', 'd'])};")
    if is_split:
        acc, stats = (len(p.body.reads) + _written(p, op, v) for v in (op.acc, op.stats))
        at = ["0", token, head, "0", "0"]
        p.method(f"float* acc({_TG})", f"return {p.pointer(acc, at)};")
        p.method(f"float* stats({_TG})", f"return {p.pointer(stats, at)};")
    else:
        statements = p.stores(op.result, "y", ["0", token, head, "d"])
        p.method(f"void store({_TG}, int d, float y)", *statements)
    return "Attention"


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
        weight = "1.0f" if norm.weight is None else p.element(norm.weight, ["d"])
        lines.append(f"static constexpr float eps = {float_literal(norm.eps.value.data)};")
        lines.append(f"{DEVICE} float scale({WORK}, int d) {{ return {weight}; }}")
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


def print_attention_merge(p: BodyPrinter, op: tensor.AttentionMergeOp) -> str:
    """The members of a body that joins the chunks of a split attention; its skeleton."""
    *rows, splits, depth = shape_of(op.acc)
    acc, stats = p.read_plain(op, op.acc), p.read_plain(op, op.stats)
    row = p.lead("0" if prod(rows) == 1 else "row", rows)
    split = "0" if splits == 1 else "split"
    parameters = f"{WORK}, int row"
    p.constant("ROWS", prod(rows))
    p.constant("D", depth)
    p.constant("SPLITS", splits)
    for name, number in (("acc", acc), ("stats", stats)):
        p.method(
            f"const float* {name}({parameters}, int split)",
            f"return {p.pointer(number, [*row, split, '0'])};",
        )
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
