"""Mixtures of experts on the CPU: a router's choice, products of chosen weights."""

from __future__ import annotations

from xdsl.ir import SSAValue

from mpkir.backends.cpu.body_printer import BodyPrinter
from mpkir.backends.cpu.text import function
from mpkir.backends.scalar import storage_type
from mpkir.dialects import tensor
from mpkir.dialects.tensor import element_type_of, shape_of


def print_topk(printer: BodyPrinter, op: tensor.TopkOp) -> None:
    """The call that ranks the rows of x."""
    results = f"{printer.result(op.values)}, {printer.result(op.indices)}"
    scores = f"mpk::Scores::{op.scores.data}"
    printer.call("experts", f"mpk::topk<{scores}>({results}, {printer.tiles[op.x].name});")


def print_expert_linear(printer: BodyPrinter, op: tensor.ExpertLinearOp, x: SSAValue) -> None:
    """The call of a product of chosen weights with x, which has passed through the prologue."""
    if any(op.firsts):
        raise printer.refuse(op, "begins at a later row of its weights than their boxes")
    fixed = all(printer.tiles[v].is_fixed for v in (op.x, *op.prologue_args))
    weights = [printer.tiles[w].name for w in op.weights]
    if len({str(w.type) for w in op.weights}) > 1:
        raise printer.refuse(op, "has weights of several types")
    # Where only one of them reaches to its buffer's end, the tiles' types differ: pointers do not.
    array = printer.fresh_name()
    pointers = ", ".join(f"{weight}.data" for weight in weights)
    element = storage_type(element_type_of(op.weights[0]))
    printer.declarations.append(f"const {element}* const {array}[] = {{{pointers}}};")
    depth = shape_of(op.x)[-1]
    rows = printer.tiles[x].size // depth
    arguments = [
        "context.first_of_run" if fixed else "true",
        printer.array("float", rows * (-(-depth // 32) * 32)),
        printer.result(op.result),
        printer.tiles[x].name,
        weights[0],
        array,
        printer.tiles[op.experts].name,
        printer.optional(op.scales),
        "[](float sum) { return sum; }" if op.epilogue is None else function(op.epilogue.block),
        *(printer.tiles[v].name for v in op.epilogue_args),
    ]
    printer.call("experts", f"mpk::expert_linear<{len(weights)}>({', '.join(arguments)});")
