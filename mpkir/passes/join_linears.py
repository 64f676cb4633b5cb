"""join-linears: products of one x with several weights become one product with all their rows.

Queries, keys and values of an attention are three small linears that each wait for x, normalise it
and start a stream of weights. As one linear over the rows of all three weights they do so once, and
the rows spread over the workers more evenly; their results are slices of one buffer, which cost
nothing. The weights become one, whose parts are loaded into their rows of one allocation.

It pays where the start of a product is felt beside its stream, so only while each worker has few
bytes to read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import LocationAttr, ModuleOp, NameLoc, StringAttr, TensorType
from xdsl.ir import Block, Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from mpkir.dialects import tensor
from mpkir.dialects.parts import PartsAttr
from mpkir.passes.tiling.layouts import VIEWS, Layout, can_read, through
from mpkir.passes.tiling.limits import bytes_of

_ROWS = 8
"""Weights are joined at multiples of this many rows: tiles of matrix units and 16-byte loads stay
whole."""


def _is_own_weight(value: SSAValue) -> bool:
    """Whether a value is a weight of the model that one operator reads, once."""
    owner = value.owner
    return isinstance(owner, tensor.WeightOp) and owner.parts is None and value.has_one_use()


def _is_read_in_place(value: SSAValue, layout: Layout) -> bool:
    """Whether all that read a value could read it where it lies so, without a copy."""
    for use in value.uses:
        op = use.operation
        if isinstance(op, VIEWS):
            seen = through(op, layout)
            if seen is None or not _is_read_in_place(op.result, seen):
                return False
        elif isinstance(op, tensor.OutputOp | tensor.StoreStateOp):
            return False
        elif not can_read(op, value, layout):
            return False
    return True


def _can_join(linear: tensor.LinearOp, names: dict[str, int]) -> bool:
    """Whether a linear alone has what joining takes; `names` counts the uses of weights' names."""
    rows = tensor.shape_of(linear.result)[-1]
    if len(linear.weights) != 1 or rows % _ROWS:
        return False
    own = [*linear.weights, *linear.epilogue_args]
    if not all(map(_is_own_weight, own)):
        return False
    if any(names[_weight(value).sym.data] != 1 for value in own):
        return False
    if any(tensor.shape_of(value) != (rows,) for value in linear.epilogue_args):
        return False
    # Joined with another of its size it would be the second half of every row.
    both = (*tensor.shape_of(linear.result)[:-1], 2 * rows)
    half = Layout.dense(both).sliced(len(both) - 1, rows, rows, 1)
    return _is_read_in_place(linear.result, half)


def _weight(value: SSAValue) -> tensor.WeightOp:
    assert isinstance(value.owner, tensor.WeightOp)
    return value.owner


def _same_region(a: Region | None, b: Region | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.is_structurally_equivalent(b)


def _go_together(a: tensor.LinearOp, b: tensor.LinearOp) -> bool:
    """Whether two linears differ in their weights and biases only."""
    return (
        a.x is b.x
        and tuple(a.prologue_args) == tuple(b.prologue_args)
        and tensor.element_type_of(a.result) == tensor.element_type_of(b.result)
        and tensor.element_type_of(a.weights[0]) == tensor.element_type_of(b.weights[0])
        and _same_region(a.prologue, b.prologue)
        and _same_region(a.epilogue, b.epilogue)
    )


def _joined_name(names: Sequence[str]) -> str:
    """What several names have in common, and what not: "self_attn.q_proj+k_proj.weight"."""
    split = [name.split(".") for name in names]
    shortest = min(map(len, split))
    head = next((i for i in range(shortest) if len({s[i] for s in split}) > 1), shortest - 1)
    tail = 0
    while tail < shortest - head - 1 and len({s[-1 - tail] for s in split}) == 1:
        tail += 1
    middle = "+".join(".".join(s[head : len(s) - tail]) for s in split)
    return ".".join([*split[0][:head], middle, *split[0][len(split[0]) - tail :]])


def _joined_location(locations: Sequence[LocationAttr]) -> LocationAttr:
    names = [location.desc.data for location in locations if isinstance(location, NameLoc)]
    first = locations[0]
    if len(names) < len(locations) or not all(names) or not isinstance(first, NameLoc):
        return first
    return NameLoc(StringAttr(_joined_name(names)), first.location)


def _join_weights(values: Sequence[SSAValue], taken: dict[str, int]) -> tensor.WeightOp:
    """One weight with the rows of several."""
    weights = [_weight(value) for value in values]
    names = [weight.sym.data for weight in weights]
    name = _joined_name(names)
    while name in taken:
        name += "+"
    taken[name] = 1
    rows = [tensor.shape_of(value)[0] for value in values]
    shape = [sum(rows), *tensor.shape_of(values[0])[1:]]
    type = TensorType(tensor.element_type_of(values[0]), shape)
    parts = PartsAttr(names, rows, [weight.shard for weight in weights])
    joined = tensor.WeightOp(name, type, parts)
    joined.location = weights[0].location
    return joined


def _join(linears: Sequence[tensor.LinearOp], taken: dict[str, int]) -> None:
    """Put one linear in the place of the first, and slices of its result for those of all."""
    first = linears[0]
    weight = _join_weights([linear.weights[0] for linear in linears], taken)
    biases = [
        _join_weights(values, taken)
        for values in zip(*(linear.epilogue_args for linear in linears), strict=True)
    ]
    joined = first.like(
        first.x,
        tensor.element_type_of(first.result),
        weights=[weight.result],
        prologue=None if first.prologue is None else first.prologue.clone(),
        prologue_args=first.prologue_args,
        epilogue=None if first.epilogue is None else first.epilogue.clone(),
        epilogue_args=[bias.result for bias in biases],
    )
    joined.location = _joined_location([linear.location for linear in linears])
    slices: list[tensor.SliceOp] = []
    last, start = len(tensor.shape_of(first.result)) - 1, 0
    for linear in linears:
        length = tensor.shape_of(linear.result)[-1]
        slices.append(part := tensor.SliceOp(joined.result, last, start, length))
        part.location = linear.location
        start += length
    Rewriter.insert_op([weight, *biases, joined, *slices], InsertPoint.before(first))
    for linear, part in zip(linears, slices, strict=True):
        sources = [_weight(value) for value in (*linear.weights, *linear.epilogue_args)]
        linear.result.replace_all_uses_with(part.result)
        linear.detach()
        linear.erase()
        for source in sources:
            source.detach()
            source.erase()


def _families(block: Block, names: dict[str, int]) -> Iterator[list[tensor.LinearOp]]:
    """Linears of a block that can be one, each list in program order."""
    families: dict[SSAValue, list[list[tensor.LinearOp]]] = {}
    for op in block.ops:
        if not isinstance(op, tensor.LinearOp) or not _can_join(op, names):
            continue
        beside = families.setdefault(op.x, [])
        for family in beside:
            if _go_together(family[0], op):
                family.append(op)
                break
        else:
            beside.append([op])
    for beside in families.values():
        yield from (family for family in beside if len(family) > 1)


def _names(block: Block) -> dict[str, int]:
    """How often each name is used in a step."""
    names: dict[str, int] = {}
    for op in block.ops:
        if isinstance(op, tensor.WeightOp | tensor.InputOp | tensor.StateOp | tensor.OutputOp):
            names[op.sym.data] = names.get(op.sym.data, 0) + 1
    return names


@dataclass(frozen=True)
class JoinLinearsPass(ModulePass):
    """Turn linears that differ in their weights and biases only into one with all their rows.

    `worker_bytes`: most bytes of joined weights for each of `workers`; 0 joins nothing. A linear
    stays alone where a reader of its result would need a copy, or where its weight has other users.
    """

    name = "mpk-join-linears"

    workers: int = 132
    worker_bytes: int = 1 << 20

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for step in op.body.block.ops:
            if not isinstance(step, func.FuncOp):
                continue
            block = step.body.block
            names = _names(block)
            for family in tuple(_families(block, names)):
                weights = [linear.weights[0] for linear in family]
                size = sum(prod(tensor.shape_of(w)) * bytes_of(w) for w in weights)
                if size <= self.worker_bytes * self.workers:
                    _join(family, names)
