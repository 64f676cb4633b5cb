"""`relu(gate(x))^2 * up(x)` as one operator, from PyTorch's graph down to C++ and CUDA."""

from itertools import permutations
from math import ceil, prod
from pathlib import Path

import numpy as np
from xdsl.dialects.builtin import TensorType
from xdsl.ir import Dialect
from xdsl.irdl import IRDLOperation, irdl_op_definition, operand_def, result_def, traits_def
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriteWalker, RewritePattern, op_type_rewrite_pattern
from xdsl.traits import Pure

from mpkir.backends.cpu import operators as cpu
from mpkir.backends.cuda import operators as cuda
from mpkir.backends.interpreter.kernels import KERNELS
from mpkir.backends.interpreter.values import rounding_to
from mpkir.dialects.tensor import ElementwiseOp, LinearOp, element_type_of, shape_of
from mpkir.passes.raising.scalar_forms import binary, with_constant
from mpkir.passes.tiling.rules import RULES, features_per_task
from mpkir.passes.tiling.tiling import Cut, Tiling, box
from mpkir.universe import MpkirUniverse


@irdl_op_definition
class GatedOp(IRDLOperation):
    """`y[.., n] = relu(x . gate[n])^2 * (x . up[n])`; x: [.., K], weights: [N, K], y: [.., N]."""

    name = "squared_relu.gated"
    x, gate, up = operand_def(TensorType), operand_def(TensorType), operand_def(TensorType)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = "operands attr-dict `:` functional-type(operands, results)"


class RaiseGated(RewritePattern):
    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ElementwiseOp, rewriter, /):
        for square, up in permutations(binary(op.result, "arith.mulf") or (), 2):
            relu, twin = binary(square, "arith.mulf") or (square, None)
            gate, bound = with_constant(relu, "arith.maximumf") or (up, None)
            if relu is twin and bound == 0 and all(map(is_plain_linear, (gate.owner, up.owner))):
                operands = [gate.owner.x, gate.owner.weights[0], up.owner.weights[0]]
                if up.owner.x is gate.owner.x:
                    rewriter.replace(op, GatedOp(operands=operands, result_types=[op.result.type]))


def is_plain_linear(op):
    return isinstance(op, LinearOp) and len(op.operands) == 2 and not (op.prologue or op.epilogue)


class RaiseGatedPass(ModulePass):
    """Recognise `relu(gate(x))^2 * up(x)`; comes before mpk-raise, which may take it apart."""

    name = "squared-relu-raise"

    def apply(self, ctx, op):
        PatternRewriteWalker(RaiseGated()).rewrite_module(op)


@RULES.register(GatedOp)
def tiling(op, limits):
    (features, depth), shape = shape_of(op.gate), shape_of(op.result)
    size = features_per_task(features, 2 * depth, 2, limits)
    weight = box((features, depth), {0: Cut(0, size)}, 1)
    result = box(shape, {len(shape) - 1: Cut(0, size)}, 1)
    return Tiling((ceil(features / size),), (box(shape_of(op.x), {}, 1), weight, weight), (result,))


@KERNELS.register(GatedOp)
def kernel(op):
    rounded = rounding_to(element_type_of(op.result))
    return lambda _, x, gate, up: (rounded(np.maximum(x @ gate.T, 0) ** 2 * (x @ up.T)),)


@cpu.FORMS.register(GatedOp)
def print_cpu(printer, op):
    room = printer.array("float", prod(shape_of(op.x)) + 32 * prod(shape_of(op.x)[:-1]))
    x, gate, up = (printer.tiles[v].name for v in op.operands)
    printer.declarations.append(f"const decltype({gate}) weights[] = {{{gate}, {up}}};")
    call = f"mpk::linear<2>(true, {room}, {printer.result(op.result)}, {x}, weights, squared_relu);"
    printer.headers.add("linear")
    printer.call("squared_relu/gated.hpp", call)


@cuda.FORMS.register(GatedOp)
def print_cuda(printer, op):
    *row, n = cuda.unravel("i" if prod(shape_of(op.result)) > 1 else "0", shape_of(op.result))
    printer.constant("COUNT", prod(shape_of(op.result)))
    printer.constant("K", shape_of(op.x)[-1])
    for name, value, at in (("x", op.x, row), ("gate", op.gate, [n]), ("up", op.up, [n])):
        element = printer.element(value, [*at, "k"])
        printer.method(f"float {name}({cuda.WORK}, int i, int k)", f"return {element};")
    stores = printer.stores(op.result, "y", [*row, n])
    printer.method(f"void store({cuda.WORK}, int i, float y)", *stores)
    printer.headers.add("squared_relu/gated.cuh")
    return "::SquaredRelu"


UNIVERSE = MpkirUniverse(
    all_dialects={"squared_relu": lambda: Dialect("squared_relu", [GatedOp])},
    all_passes={"squared-relu-raise": lambda: RaiseGatedPass},
    all_stages={"squared-relu-raise": ""},
    include=[Path(__file__).parent / "include"],
)
