"""Which skeleton computes which tensor operator, and with what arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xdsl.dialects.builtin import (
    Float64Type,
    FloatAttr,
    IntegerAttr,
    IntegerType,
    UnitAttr,
)
from xdsl.ir import Attribute, Operation, Region, SSAValue

from mpkir.backends.cpu.body_printer import BodyPrinter
from mpkir.backends.cpu.experts import print_expert_linear, print_topk
from mpkir.backends.cpu.text import SPELLING, dims, function
from mpkir.backends.scalar import carried_type, literal
from mpkir.dialects import tensor
from mpkir.dialects.tensor import element_type_of, shape_of
from mpkir.registry import Registry


def print_operator(printer: BodyPrinter, op: Operation) -> None:
    """Print a tensor operator of a body or of a prologue; MpkirError if it has no skeleton."""
    if printer.print_source(op):
        return
    form = FORMS.get(type(op))
    if form is None:
        raise printer.refuse(op, hint=FORMS.missing(op))
    form(printer, op)


def _float(value: FloatAttr[Any] | None) -> str:
    """An attribute as a float literal; 0, which stands for none, if it is missing."""
    number = 0.0 if value is None else value.value.data
    return f"{float(number)!r}f"


def _accumulated(type: Attribute) -> tuple[str, int]:
    """The type in which elements are summed, and its size."""
    if isinstance(type, IntegerType):
        return "long long", 8
    return ("double", 8) if isinstance(type, Float64Type) else ("float", 4)


def _prologue(printer: BodyPrinter, region: Region | None, x: SSAValue, extra: Any) -> SSAValue:
    """Print a region of tensor ops on x; the value that takes its place."""
    if region is None:
        return x
    block = region.block
    printer.enter(block, (x, *extra))
    last = block.last_op
    assert isinstance(last, tensor.YieldOp)
    for op in block.ops:
        if op is not last:
            print_operator(printer, op)
    return last.arguments[0]


def _linear(printer: BodyPrinter, op: tensor.LinearOp) -> None:
    fixed = all(printer.tiles[v].is_fixed for v in (op.x, *op.prologue_args))
    fresh = "context.first_of_run" if fixed else "true"
    outside = len(printer.calls)
    x = _prologue(printer, op.prologue, op.x, op.prologue_args)
    if fixed:
        printer.guard_calls(outside, fresh)
    weights = [printer.tiles[w].name for w in op.weights]
    numbers = map(printer.read_number, op.weights)
    printer.prefetched += [number for number in numbers if number is not None]
    if len({str(w.type) for w in op.weights}) > 1:
        raise printer.refuse(op, "has weights of several types")
    array = printer.fresh_name()
    printer.declarations.append(
        f"const decltype({weights[0]}) {array}[] = {{{', '.join(weights)}}};"
    )
    rows, depth = printer.tiles[x].size // shape_of(op.x)[-1], shape_of(op.x)[-1]
    prepared = printer.array("float", rows * (-(-depth // 32) * 32))
    epilogue = (
        "[](float sum) { return sum; }" if op.epilogue is None else function(op.epilogue.block)
    )
    arguments = [
        fresh,
        prepared,
        printer.result(op.result),
        printer.tiles[x].name,
        array,
        epilogue,
        *(printer.tiles[v].name for v in op.epilogue_args),
    ]
    printer.call("linear", f"mpk::linear<{len(weights)}>({', '.join(arguments)});")
    if op.best is not None:
        value, index = map(printer.result, op.candidates)
        of, y = op.best.value.data, printer.tiles[op.result].name
        printer.call("tokens", f"mpk::argmax_partial<{of}, 0>({value}, {index}, {y}, 0);")


def _expert_linear(printer: BodyPrinter, op: tensor.ExpertLinearOp) -> None:
    outside = len(printer.calls)
    x = _prologue(printer, op.prologue, op.x, op.prologue_args)
    if all(printer.tiles[v].is_fixed for v in (op.x, *op.prologue_args)):
        printer.guard_calls(outside, "context.first_of_run")
    print_expert_linear(printer, op, x)


def _attention(printer: BodyPrinter, op: tensor.AttentionOp | tensor.AttentionSplitOp) -> None:
    for cache in (op.k_result, op.v_result):
        if cache not in printer.targets:
            raise printer.refuse(op, "does not write its caches")
    q = _prologue(printer, op.q_prologue, op.q, op.q_args)
    k = _prologue(printer, op.k_prologue, op.k, op.k_args)
    depth = shape_of(op.q)[3]
    window = 0 if op.window is None else op.window.value.data
    inputs = (q, k, op.v, op.k_cache, op.v_cache, op.position)
    if isinstance(op, tensor.AttentionSplitOp):
        room = op.block
        name, types = "attention_split", f"{op.chunks.value.data}, {window}"
        results = (op.acc, op.stats, op.k_result, op.v_result)
        origin = ["0" if op.origin is None else f"{printer.tiles[op.origin].name}.get(0)"]
    else:
        room, name, types = shape_of(op.k_cache)[2], "attention", str(window)
        results, origin = (op.result, op.k_result, op.v_result), []
    work = printer.array("float", 4 * (2 * depth + room))
    arguments = [
        work,
        *map(printer.result, results),
        *(printer.tiles[v].name for v in inputs),
        *origin,
        _float(op.scale),
        _float(op.soft_cap),
    ]
    printer.call("attention", f"mpk::{name}<{types}>({', '.join(arguments)});")


def _attention_merge(printer: BodyPrinter, op: tensor.AttentionMergeOp) -> None:
    inputs = ", ".join(printer.tiles[v].name for v in (op.acc, op.stats, op.position))
    printer.call(
        "attention",
        f"mpk::attention_merge<{op.block.value.data}>({printer.result(op.result)}, {inputs});",
    )


def _sdpa(printer: BodyPrinter, op: tensor.SdpaOp) -> None:
    work = printer.array("float", 2 * shape_of(op.q)[3] + shape_of(op.k)[2])
    causal = "true" if isinstance(op.causal, UnitAttr) else "false"
    inputs = ", ".join(printer.tiles[v].name for v in (op.q, op.k, op.v))
    printer.call(
        "attention",
        f"mpk::sdpa<{causal}>({work}, {printer.result(op.result)}, {inputs}, "
        f"{printer.optional(op.mask)}, {_float(op.scale)});",
    )


def _cache_append(printer: BodyPrinter, op: tensor.CacheAppendOp) -> None:
    inputs = ", ".join(printer.tiles[v].name for v in (op.cache, op.new, op.position))
    printer.call("attention", f"mpk::append_rows<true>({printer.result(op.result)}, {inputs}, 0);")


def _rotary(printer: BodyPrinter, op: tensor.RotaryOp) -> None:
    inputs = ", ".join(printer.tiles[v].name for v in (op.x, op.position, op.inv_freq))
    order = "true" if op.interleaved is not None else "false"
    printer.call(
        "rotary",
        f"mpk::rotary<{order}>({printer.result(op.result)}, {inputs}, {_float(op.scale)});",
    )


def _rms_norm(printer: BodyPrinter, op: tensor.RmsNormOp) -> None:
    x, weight = printer.tiles[op.x].name, printer.optional(op.weight)
    result = printer.result(op.result)
    printer.call("norms", f"mpk::rms_norm({result}, {x}, {weight}, {_float(op.eps)});")


def _layer_norm(printer: BodyPrinter, op: tensor.LayerNormOp) -> None:
    inputs = ", ".join(printer.tiles[v].name for v in (op.x, op.weight, op.bias))
    result = printer.result(op.result)
    printer.call("norms", f"mpk::layer_norm({result}, {inputs}, {_float(op.eps)});")


def _softmax(printer: BodyPrinter, op: tensor.SoftmaxOp) -> None:
    row = printer.array("float", (shape_of(op.x) or (1,))[-1])
    x = printer.tiles[op.x].name
    printer.call("norms", f"mpk::softmax({row}, {printer.result(op.result)}, {x});")


def _reduce(printer: BodyPrinter, op: tensor.ReduceOp) -> None:
    kind = op.kind.data
    join, mean = {
        tensor.ReductionKind.SUM: ("Sum", "false"),
        tensor.ReductionKind.MEAN: ("Sum", "true"),
        tensor.ReductionKind.MAX: ("Max", "false"),
        tensor.ReductionKind.MIN: ("Min", "false"),
    }[kind]
    joined, size = _accumulated(element_type_of(op.x))
    x, result = printer.tiles[op.x].name, printer.result(op.result)
    work = printer.array(joined, printer.tiles[op.result].size, size)
    printer.call("reduce", f"mpk::reduce<mpk::{join}, {mean}, {joined}>({work}, {result}, {x});")


def _elementwise(printer: BodyPrinter, op: tensor.ElementwiseOp) -> None:
    inputs = [printer.tiles[v].name for v in op.inputs]
    arguments = [printer.result(op.result), function(op.body.block), *inputs]
    printer.call("pointwise", f"mpk::elementwise({', '.join(arguments)});")


def _matmul(printer: BodyPrinter, op: tensor.MatmulOp) -> None:
    joined, size = _accumulated(element_type_of(op.lhs))
    row = printer.array(joined, shape_of(op.result)[-1], size)
    lhs, rhs = printer.tiles[op.lhs].name, printer.tiles[op.rhs].name
    printer.call("matmul", f"mpk::matmul({row}, {printer.result(op.result)}, {lhs}, {rhs});")


def _embedding(printer: BodyPrinter, op: tensor.EmbeddingOp) -> None:
    table, ids = printer.tiles[op.table].name, printer.tiles[op.ids].name
    result = printer.result(op.result)
    if op.position is None:
        printer.call("tokens", f"mpk::embedding({result}, {table}, {ids});")
        return
    position = printer.tiles[op.position].name
    printer.call("tokens", f"mpk::embedding_at({result}, {table}, {ids}, {position});")


def _argmax(printer: BodyPrinter, op: tensor.ArgmaxOp) -> None:
    x = printer.tiles[op.x].name
    printer.call("tokens", f"mpk::argmax({printer.result(op.result)}, {x});")


def _argmax_partial(printer: BodyPrinter, op: tensor.ArgmaxPartialOp) -> None:
    origin = "0" if op.origin is None else f"{printer.tiles[op.origin].name}.get(0)"
    results = f"{printer.result(op.value)}, {printer.result(op.index)}"
    printer.call(
        "tokens",
        f"mpk::argmax_partial<{op.chunk.value.data}>"
        f"({results}, {printer.tiles[op.x].name}, {origin});",
    )


def _argmax_join(printer: BodyPrinter, op: tensor.ArgmaxJoinOp) -> None:
    origin = "0" if op.origin is None else f"{printer.tiles[op.origin].name}.get(0)"
    results = ", ".join(map(printer.result, op.results))
    value, index = printer.tiles[op.value].name, printer.tiles[op.index].name
    sizes = f"{op.chunk.value.data}, {op.part.value.data}"
    printer.call("tokens", f"mpk::argmax_join<{sizes}>({results}, {value}, {index}, {origin});")


def _argmax_merge(printer: BodyPrinter, op: tensor.ArgmaxMergeOp) -> None:
    value, index = printer.tiles[op.value].name, printer.tiles[op.index].name
    parts = "" if op.parts is None else f"<{op.part[0]}, {op.part[1]}>"
    merged = f"mpk::argmax_merge{parts}({printer.result(op.result)}, {value}, {index})"
    if op.sequence is None or op.position is None or op.sequence_result is None:
        printer.call("tokens", f"{merged};")
        return
    target = printer.result(op.sequence_result)
    sequence, position = printer.tiles[op.sequence].name, printer.tiles[op.position].name
    stop = ", ".join(map(str, op.stop.get_values()))
    if len(shape_of(op.sequence)) == 1:
        arguments = f"context, {target}, {sequence}, {position}, {merged}"
        printer.call("tokens", f"mpk::append<{stop}>({arguments});")
        return
    printer.call("tokens", f"{merged};")
    arguments = f"context, {target}, {sequence}, {printer.tiles[op.result].name}, {position}"
    printer.call("tokens", f"mpk::sequence_append<{stop}>({arguments});")


def _sequence_append(printer: BodyPrinter, op: tensor.SequenceAppendOp) -> None:
    inputs = ", ".join(printer.tiles[v].name for v in (op.sequence, op.token, op.position))
    stop = ", ".join(map(str, op.stop.get_values()))
    target = printer.result(op.result)
    printer.call("tokens", f"mpk::sequence_append<{stop}>(context, {target}, {inputs});")


def _sequence_read(printer: BodyPrinter, op: tensor.SequenceReadOp) -> None:
    inputs = ", ".join(printer.tiles[v].name for v in (op.sequence, op.position))
    printer.call("tokens", f"mpk::sequence_read({printer.result(op.result)}, {inputs});")


def _transpose(printer: BodyPrinter, op: tensor.TransposeOp) -> None:
    order = op.permutation.get_values()
    _strided_copy(printer, op, list(order), [0] * len(order), [1] * len(order))


def _slice(printer: BodyPrinter, op: tensor.SliceOp) -> None:
    rank, dim = len(shape_of(op.source)), op.dim.value.data
    start = [op.start.value.data if d == dim else 0 for d in range(rank)]
    step = [op.step.value.data if d == dim else 1 for d in range(rank)]
    _strided_copy(printer, op, list(range(rank)), start, step)


def _strided_copy(
    printer: BodyPrinter,
    op: tensor.TransposeOp | tensor.SliceOp,
    order: list[int],
    start: list[int],
    step: list[int],
) -> None:
    types = f"{dims(order or [0])}, {dims(start or [0])}, {dims(step or [1])}"
    result, source = printer.result(op.result), printer.tiles[op.source].name
    printer.call("pointwise", f"mpk::strided_copy<{types}>({result}, {source});")


def _broadcast(printer: BodyPrinter, op: tensor.BroadcastOp) -> None:
    source = printer.tiles[op.source].name
    printer.call("pointwise", f"mpk::copy({printer.result(op.result)}, {source});")


def _reshape(printer: BodyPrinter, op: tensor.ReshapeOp) -> None:
    source, result = printer.tiles[op.source].name, printer.result(op.result)
    same = shape_of(op.source) == shape_of(op.result)
    printer.call("pointwise", f"mpk::{'copy' if same else 'reshape'}({result}, {source});")


def _concat(printer: BodyPrinter, op: tensor.ConcatOp) -> None:
    result, first = printer.result(op.result), 0
    for value in op.sources:
        source = printer.tiles[value].name
        printer.call("pointwise", f"mpk::place<{op.dim.value.data}>({first}, {result}, {source});")
        first += shape_of(value)[op.dim.value.data]


def _full(printer: BodyPrinter, op: tensor.FullOp) -> None:
    match op.value:
        case FloatAttr() | IntegerAttr():
            value = op.value.value.data
        case _:
            raise printer.refuse(op, "holds no single number")
    element = element_type_of(op.result)
    text = f"({carried_type(element)}){literal(value, element, SPELLING)}"
    printer.call("pointwise", f"mpk::full({printer.result(op.result)}, {text});")


def _iota(printer: BodyPrinter, op: tensor.IotaOp) -> None:
    start, step = op.start.value.data, op.step.value.data
    printer.call("pointwise", f"mpk::iota({printer.result(op.result)}, {start}, {step});")


_FORMS: dict[type[Operation], Callable[[BodyPrinter, Any], None]] = {
    tensor.ArgmaxJoinOp: _argmax_join,
    tensor.ArgmaxMergeOp: _argmax_merge,
    tensor.ArgmaxOp: _argmax,
    tensor.ArgmaxPartialOp: _argmax_partial,
    tensor.AttentionMergeOp: _attention_merge,
    tensor.AttentionOp: _attention,
    tensor.AttentionSplitOp: _attention,
    tensor.BroadcastOp: _broadcast,
    tensor.CacheAppendOp: _cache_append,
    tensor.ConcatOp: _concat,
    tensor.ElementwiseOp: _elementwise,
    tensor.EmbeddingOp: _embedding,
    tensor.ExpertLinearOp: _expert_linear,
    tensor.FullOp: _full,
    tensor.IotaOp: _iota,
    tensor.LayerNormOp: _layer_norm,
    tensor.LinearOp: _linear,
    tensor.MatmulOp: _matmul,
    tensor.ReduceOp: _reduce,
    tensor.ReshapeOp: _reshape,
    tensor.RmsNormOp: _rms_norm,
    tensor.RotaryOp: _rotary,
    tensor.SdpaOp: _sdpa,
    tensor.SequenceAppendOp: _sequence_append,
    tensor.SequenceReadOp: _sequence_read,
    tensor.SliceOp: _slice,
    tensor.SoftmaxOp: _softmax,
    tensor.TopkOp: print_topk,
    tensor.TransposeOp: _transpose,
}

FORMS = Registry("cpu", "mpkir.backends.cpu.operators.FORMS", ("printer", "op"), _FORMS)
"""Functions that print a call of an operator's skeleton, by operator."""
