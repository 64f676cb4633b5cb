"""Ways to divide each operator among ranks, besides doing it whole on each.

A rule only says what is right; what pays is found by the search. An operator without a rule is done
whole. Products: columns of a weight (each rank has some output features) take all of x; rows (each
has some of the features that are summed over) take a part of it and give partial sums. Attention is
divided by heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from math import prod

from xdsl.dialects.builtin import BFloat16Type, Float16Type, Float32Type
from xdsl.ir import Block, Operation, SSAValue

from mpkir.dialects import tensor
from mpkir.passes.sharding.forms import (
    WHOLE,
    Exchange,
    Form,
    Kind,
    Way,
    broadcast_form,
    dim_of_parts,
    form_of_pieces,
    forms_in_pieces,
    forms_of,
    reshaped_form,
    shares,
)
from mpkir.registry import Registry

Ways = Iterator[Way]
_Product = tensor.LinearOp | tensor.ExpertLinearOp


def _in_pieces(value: SSAValue, ranks: int) -> Iterator[Form]:
    """The forms of a value of whose last dimension a rank has a part of each piece that readers
    slice it into."""
    return forms_in_pieces(len(tensor.shape_of(value)) - 1, _pieces_of(value), ranks)


def _pieces_of(value: SSAValue) -> list[int]:
    """The sizes of the pieces into which readers slice a value along its last dimension, perhaps
    behind pointwise operators and reshapes; one if none does."""
    features = tensor.shape_of(value)[-1:]
    cuts = {0, *features}
    values, seen = [value], {value}
    while values:
        for use in values.pop().uses:
            reader = use.operation
            if isinstance(reader, tensor.SliceOp):
                dim, start = reader.dim.value.data, reader.start.value.data
                if dim == len(tensor.shape_of(reader.source)) - 1 and reader.step.value.data == 1:
                    cuts |= {start, start + tensor.shape_of(reader.result)[dim]}
            elif isinstance(reader, tensor.ElementwiseOp | tensor.ReshapeOp):
                shown = reader.results[0]
                if tensor.shape_of(shown)[-1:] == features and shown not in seen:
                    seen.add(shown)
                    values.append(shown)
    return [end - start for start, end in pairwise(sorted(cuts))]


def _columns(op: _Product, ranks: int) -> Ways:
    """Each rank has some of the output features. Of a stack's rows, of which a product makes so
    many features, that is a part of each such piece, as other products of the same stack (gates
    and what they gate, say) have theirs.
    """
    result = tensor.shape_of(op.result)
    last = len(result) - 1
    dim, firsts = (0, ()) if isinstance(op, tensor.LinearOp) else (1, op.firsts)
    rows = [tensor.shape_of(weight)[dim] for weight in op.weights]
    if any(each % result[last] for each in (*rows, *firsts)):
        return  # not one of several such products of a stack
    plain = (Form(last, of) for of in shares(result[last], ranks))
    for form in (*plain, *_in_pieces(op.result, ranks)):
        pieces = form.pieces or ((result[last], form.of),)
        taken = {
            weight: form_of_pieces(dim, pieces * (each // result[last]))
            for weight, each in zip(op.weights, rows, strict=True)
        }
        for value in op.epilogue_args:
            taken[value] = broadcast_form(tensor.shape_of(value), result, form)
        if set(op.weights) & set(op.epilogue_args) or op.x in taken:
            return
        yield Way(tuple(taken.get(v, WHOLE) for v in op.operands), (form,))


def _rows(op: _Product, ranks: int) -> Ways:
    """Each rank has some of the features that are summed over, so a partial sum of every result.

    The sum comes before the epilogue, which then belongs to the collective.
    """
    if len(op.weights) != 1 or op.prologue is not None or op.x in op.epilogue_args:
        return
    result = tensor.shape_of(op.result)
    last = len(result) - 1
    weight = op.weights[0]
    for of in shares(tensor.shape_of(op.x)[-1], ranks):
        taken = {
            op.x: Form(len(tensor.shape_of(op.x)) - 1, of),
            weight: Form(len(tensor.shape_of(weight)) - 1, of),
        }
        operands = tuple(taken.get(v, WHOLE) for v in op.operands)
        size = 4 * prod(result)
        yield Way(operands, (WHOLE,), Exchange(Kind.SUM, of, size))
        if dim_of_parts(result, of) is not None:
            yield Way(operands, (WHOLE,), Exchange(Kind.SUM_IN_PARTS, of, size // of))
        if op.epilogue is None and result[last] % of == 0:
            scatter = Exchange(Kind.SHARD_OF_SUM, of, size // of)
            yield Way(operands, (Form(last, of),), scatter)


def _product(op: _Product, ranks: int) -> Ways:
    yield from _columns(op, ranks)
    yield from _rows(op, ranks)


def _elementwise(op: tensor.ElementwiseOp, ranks: int) -> Ways:
    result = tensor.shape_of(op.result)
    for form in (*forms_of(result, ranks), *_in_pieces(op.result, ranks)):
        inputs = tuple(broadcast_form(tensor.shape_of(v), result, form) for v in op.inputs)
        yield Way(inputs, (form,))


def _along_rows(op: Operation, ranks: int) -> Ways:
    """What works along the last dimension of its first operand is divided along others."""
    shape = tensor.shape_of(op.operands[0])
    others = (WHOLE,) * (len(op.operands) - 1)
    for form in forms_of(shape[:-1], ranks):
        yield Way((form, *others), (form,) * len(op.results))


def _argmax(op: tensor.ArgmaxOp, ranks: int) -> Ways:
    """Along the last dimension each rank finds a candidate, and all choose among those."""
    yield from _along_rows(op, ranks)
    shape = tensor.shape_of(op.x)
    if isinstance(tensor.element_type_of(op.x), BFloat16Type | Float16Type | Float32Type):
        for of in shares(shape[-1], ranks):
            candidates = Exchange(Kind.SHARDS, of, 12 * prod(shape[:-1]))
            yield Way((Form(len(shape) - 1, of),), (WHOLE,), candidates)


def _reduce(op: tensor.ReduceOp, ranks: int) -> Ways:
    for form in forms_of(tensor.shape_of(op.x), ranks):
        if form.dim not in op.dims.get_values():
            yield Way((form,), (form,))


def _reshape(op: tensor.ReshapeOp, ranks: int) -> Ways:
    source, result = tensor.shape_of(op.source), tensor.shape_of(op.result)
    for form in (*forms_of(source, ranks), *_in_pieces(op.source, ranks)):
        seen = reshaped_form(source, result, form)
        if seen is not None:
            yield Way((form,), (seen,))


def _transpose(op: tensor.TransposeOp, ranks: int) -> Ways:
    permutation = [int(p) for p in op.permutation.get_values()]
    for form in forms_of(tensor.shape_of(op.source), ranks):
        yield Way((form,), (Form(permutation.index(form.dim), form.of),))


def _slice(op: tensor.SliceOp, ranks: int) -> Ways:
    dim, start, step = op.dim.value.data, op.start.value.data, op.step.value.data
    size, length = (tensor.shape_of(value)[dim] for value in (op.source, op.result))
    for form in forms_of(tensor.shape_of(op.source), ranks):
        # Every second element of all is every second one of each part.
        every = start < step and length * step == size and size // form.of % step == 0
        if form.dim != dim or (every and step > 1):
            yield Way((form,), (form,))
    for form in _in_pieces(op.source, ranks):
        if form.dim == dim and step == 1 and (piece := form.span(start, length)) is not None:
            yield Way((form,), (piece[1],))


def _broadcast(op: tensor.BroadcastOp, ranks: int) -> Ways:
    result = tensor.shape_of(op.result)
    for form in forms_of(result, ranks):
        yield Way((broadcast_form(tensor.shape_of(op.source), result, form),), (form,))


def _concat(op: tensor.ConcatOp, ranks: int) -> Ways:
    for form in forms_of(tensor.shape_of(op.result), ranks):
        if form.dim != op.dim.value.data:
            yield Way((form,) * len(op.sources), (form,))


def _matmul(op: tensor.MatmulOp, ranks: int) -> Ways:
    result = tensor.shape_of(op.result)
    rank = len(result)
    for form in forms_of(result, ranks):
        a, b = (broadcast_form(tensor.shape_of(v), result, form) for v in (op.lhs, op.rhs))
        # Rows of the result are rows of lhs, columns are columns of rhs.
        if form.dim == rank - 1:
            a, b = WHOLE, Form(len(tensor.shape_of(op.rhs)) - 1, form.of)
        elif form.dim == rank - 2:
            a, b = Form(len(tensor.shape_of(op.lhs)) - 2, form.of), WHOLE
        yield Way((a, b), (form,))


def _embedding(op: tensor.EmbeddingOp, ranks: int) -> Ways:
    shape = tensor.shape_of(op.result)
    others = (WHOLE,) * (len(op.operands) - 1)
    for of in shares(shape[-1], ranks):
        yield Way((Form(1, of), *others), (Form(len(shape) - 1, of),))


def _rotary(op: tensor.RotaryOp, ranks: int) -> Ways:
    for form in forms_of(tensor.shape_of(op.x), ranks):
        if form.dim in (0, 2):
            yield Way((form, WHOLE, WHOLE), (form,))


def head_shares(heads: int, keys: int, ranks: int) -> Iterator[tuple[int, int]]:
    """Into how many parts query heads and key heads can be divided, so that each part of the
    queries has its keys in one part; most parts first. Parts of the keys are shared where there are
    fewer heads of them."""
    group = heads // keys
    for of in shares(heads, ranks):
        local = heads // of
        if local % group == 0:
            yield of, of
        elif group % local == 0:
            yield of, keys


def _cache_append(op: tensor.CacheAppendOp, ranks: int) -> Ways:
    for form in forms_of(tensor.shape_of(op.cache)[:2], ranks):
        yield Way((form, form, WHOLE), (form,))


def _sdpa(op: tensor.SdpaOp, ranks: int) -> Ways:
    result, keys = tensor.shape_of(op.result), tensor.shape_of(op.k)[1]
    for of, of_keys in head_shares(result[1], keys, ranks):
        q, k = Form(1, of), Form(1, of_keys) if of_keys > 1 else WHOLE
        masks = () if op.mask is None else (tensor.shape_of(op.mask),)
        yield Way((q, k, k, *(broadcast_form(each, result, q) for each in masks)), (q,))


def _attention(op: tensor.AttentionOp, ranks: int) -> Ways:
    heads, keys = tensor.shape_of(op.q)[2], tensor.shape_of(op.k)[2]
    for of, of_keys in head_shares(heads, keys, ranks):
        q = Form(2, of)
        k, cache = (Form(2, of_keys), Form(1, of_keys)) if of_keys > 1 else (WHOLE, WHOLE)
        regions = ((op.q_prologue, q), (op.k_prologue, k))
        if any(r is not None and forms_within(r.block, form, ranks) is None for r, form in regions):
            continue
        others = (WHOLE,) * (len(op.operands) - 5)
        yield Way((q, k, k, cache, cache, *others), (q, cache, cache))


def forms_within(block: Block, first: Form, ranks: int) -> dict[SSAValue, Form] | None:
    """The forms of all values of a region of tensor operators whose first argument has a form, the
    others being whole; None if it cannot be divided so or yields another form."""
    forms: dict[SSAValue, Form] = dict.fromkeys(block.args, WHOLE)
    forms[block.args[0]] = first
    for op in block.ops:
        if isinstance(op, tensor.YieldOp):
            return forms if forms[op.arguments[0]] == first else None
        given = tuple(forms[v] for v in op.operands)
        way = next((w for w in ways_of(op, ranks) if w.operands == given and not w.exchange), None)
        if way is None:
            return None
        forms.update(zip(op.results, way.results, strict=True))
    return None


def _output(op: tensor.OutputOp, ranks: int) -> Ways:
    return (Way((form,), ()) for form in forms_of(tensor.shape_of(op.value), ranks))


_RULES: dict[type[Operation], Callable[..., Ways]] = {
    tensor.ArgmaxOp: _argmax,
    tensor.AttentionOp: _attention,
    tensor.BroadcastOp: _broadcast,
    tensor.CacheAppendOp: _cache_append,
    tensor.ConcatOp: _concat,
    tensor.ElementwiseOp: _elementwise,
    tensor.EmbeddingOp: _embedding,
    tensor.ExpertLinearOp: _product,
    tensor.LayerNormOp: _along_rows,
    tensor.LinearOp: _product,
    tensor.MatmulOp: _matmul,
    tensor.OutputOp: _output,
    tensor.ReduceOp: _reduce,
    tensor.ReshapeOp: _reshape,
    tensor.RmsNormOp: _along_rows,
    tensor.RotaryOp: _rotary,
    tensor.SdpaOp: _sdpa,
    tensor.SliceOp: _slice,
    tensor.SoftmaxOp: _along_rows,
    tensor.StoreStateOp: _output,
    tensor.TopkOp: _along_rows,
    tensor.TransposeOp: _transpose,
}
RULES = Registry("shardings", "mpkir.passes.sharding.rules.RULES", ("op", "ranks"), _RULES)
"""Rules by operator."""


def ways_of(op: Operation, ranks: int) -> tuple[Way, ...]:
    """All ways to divide an operator, doing it whole on each rank first."""
    whole = Way((WHOLE,) * len(op.operands), (WHOLE,) * len(op.results))
    rule = RULES.get(type(op))
    return (whole, *(() if rule is None else rule(op, ranks)))
