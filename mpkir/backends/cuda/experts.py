"""Mixtures of experts: a router's choice, products of the weights that it chooses."""

from __future__ import annotations

from math import prod

from xdsl.dialects.builtin import BFloat16Type, Float16Type, Float32Type

from mpkir.backends.cuda.address import affine, is_zero, rows_aligned
from mpkir.backends.cuda.body_printer import BodyPrinter, element_of
from mpkir.backends.cuda.operand_printer import WORK
from mpkir.backends.cuda.streaming import print_epilogue, print_prologue
from mpkir.dialects import tensor
from mpkir.dialects.tensor import element_type_of, shape_of

_MOST_CHOICES = 1024
"""Elements of a row that a warp holds in registers."""


def print_topk(p: BodyPrinter, op: tensor.TopkOp) -> str:
    """The members of a router's choice; its skeleton."""
    *lead, width = shape_of(op.x)
    if not isinstance(element_type_of(op.x), BFloat16Type | Float16Type | Float32Type):
        raise p.refuse(op, "ranks elements that are not bf16, f16 or f32")
    if width > _MOST_CHOICES:
        raise p.refuse(op, f"chooses among more than {_MOST_CHOICES} elements")
    row = p.lead("0" if prod(lead) == 1 else "row", lead)
    p.constant("ROWS", prod(lead))
    p.constant("WIDTH", width)
    p.constant("COUNT", op.k)
    p.lines.append(f"static constexpr mpk::Scores scores = mpk::Scores::{op.scores.data};")
    p.method(f"float x({WORK}, int row, int i)", f"return {p.element(op.x, [*row, 'i'])};")
    at = [*row, "0" if op.k == 1 else "c"]
    stores = [*p.stores(op.values, "value", at), *p.stores(op.indices, "index", at)]
    p.method(f"void store({WORK}, int row, int c, float value, mpk::i64 index)", *stores)
    return "Topk"


def print_expert_linear(p: BodyPrinter, op: tensor.ExpertLinearOp) -> str:
    """The members of a product of chosen weights; its skeleton."""
    *lead, depth = shape_of(op.x)
    numbers = [p.read(op, weight) for weight in op.weights]
    weights = [p.body.reads[number] for number in numbers]
    kind = weights[0].element_type
    if not isinstance(kind, BFloat16Type | Float16Type | Float32Type):
        raise p.refuse(op, "has weights that are not bf16, f16 or f32")
    if any(op.firsts):
        raise p.refuse(op, "begins at a later row of its weights than their boxes")
    for weight in weights:
        whole = weight.sizes[::2] == weight.shape[::2] and weight.strides[-1] == 1
        fixed = all(map(is_zero, weight.offsets.results[::2]))
        if not whole or not fixed or weight.element_type != kind:
            raise p.refuse(op, "has weights that are not whole rows of all experts, alike in all")
    result = next(i for i, v in enumerate(p.yielded) if shape_of(v) == shape_of(op.result))
    written = p.body.writes[result]
    p.constant("SLOTS", op.slots)
    p.constant("X_ROWS", prod(lead))
    p.constant("T", prod(shape_of(op.result)[:-1]))
    p.constant("K", depth)
    p.constant("N", written.shape[-1])
    p.constant("ROWS", shape_of(op.result)[-1])
    p.constant("J", len(numbers))
    p.constant("EXPERTS", weights[0].sizes[0])
    p.constant("scaled", op.scales is not None, "bool")
    aligned = depth % 8 == 0 and all(rows_aligned(weight, 8) for weight in weights)
    p.constant("aligned", aligned, "bool")
    p.lines.append(f"using Weight = {element_of(kind)};")
    p.method("int first_row(int index)", f"return {affine(written.offsets.results[-1], 'index')};")
    choice = "".join(
        f"j == {j} ? {p.pointer(number, ['expert', 'row', '0'])} : "
        for j, number in enumerate(numbers[:-1])
    )
    p.method(
        f"const Weight* row({WORK}, int j, int expert, int row)",
        f"return {choice}{p.pointer(numbers[-1], ['expert', 'row', '0'])};",
    )
    slot = "0" if op.slots == 1 else "slot"
    p.method(f"int expert({WORK}, int slot)", f"return int({p.element(op.experts, [slot])});")
    if op.scales is not None:
        p.method(f"float factor({WORK}, int slot)", f"return {p.element(op.scales, [slot])};")
    print_prologue(p, op)
    print_epilogue(p, op)
    return "ExpertLinear"
