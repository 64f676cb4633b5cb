"""Random graphs: their text comes back as they were, their canonical form keeps the numbers."""

from __future__ import annotations

from io import StringIO
from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.dialects.arith import AddfOp, Arith, ConstantOp, MulfOp
from xdsl.dialects.builtin import Builtin, FloatAttr, ModuleOp, TensorType, bf16, f32
from xdsl.dialects.func import Func, FuncOp, ReturnOp
from xdsl.dialects.math import Math
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.transforms.canonicalize import CanonicalizePass

from mpkir.backends.interpreter.tensor_level import run_step
from mpkir.backends.interpreter.values import storage_dtype
from mpkir.dialects import tensor as t
from mpkir.dialects.tensor import shape_of

SIZES = st.integers(1, 4)


def reshape(draw, values: list[SSAValue]) -> Operation:
    source = draw(st.sampled_from(values))
    shape = draw(st.permutations(shape_of(source)))
    if draw(st.booleans()):
        shape = [1, *shape]
    elif draw(st.booleans()):
        shape = [prod(shape)]
    return t.ReshapeOp(source, shape)


def transpose(draw, values: list[SSAValue]) -> Operation:
    source = draw(st.sampled_from(values))
    return t.TransposeOp(source, draw(st.permutations(range(len(shape_of(source))))))


def slice_(draw, values: list[SSAValue]) -> Operation:
    source = draw(st.sampled_from(values))
    dim = draw(st.integers(0, len(shape_of(source)) - 1))
    size = shape_of(source)[dim]
    start, step = draw(st.integers(0, size - 1)), draw(st.integers(1, 3))
    length = draw(st.integers(1, (size - 1 - start) // step + 1))
    return t.SliceOp(source, dim, start, length, step)


def broadcast(draw, values: list[SSAValue]) -> Operation:
    source = draw(st.sampled_from(values))
    shape = [draw(SIZES) if size == 1 else size for size in shape_of(source)]
    return t.BroadcastOp(source, [draw(SIZES), *shape] if draw(st.booleans()) else shape)


def concat(draw, values: list[SSAValue]) -> Operation:
    source = draw(st.sampled_from(values))
    alike = [value for value in values if value.type == source.type]
    sources = draw(st.lists(st.sampled_from(alike), min_size=1, max_size=3))
    return t.ConcatOp(sources, draw(st.integers(0, len(shape_of(source)) - 1)))


def full(draw, values: list[SSAValue]) -> Operation:
    element = t.element_type_of(draw(st.sampled_from(values)))
    number = draw(st.sampled_from([0.5, 1.0, -2.0]))
    return t.FullOp(
        FloatAttr(number, element), TensorType(element, [*draw(st.lists(SIZES, max_size=2)), 1])
    )


def reduce_(draw, values: list[SSAValue]) -> Operation:
    source = draw(st.sampled_from(values))
    dims = draw(st.sets(st.integers(0, len(shape_of(source)) - 1), min_size=1))
    return t.ReduceOp(draw(st.sampled_from(list(t.ReductionKind))), source, sorted(dims))


def elementwise(draw, values: list[SSAValue]) -> Operation:
    """Sums and products of operands of one type, some given twice, some not used."""
    first = draw(st.sampled_from(values))
    element = t.element_type_of(first)
    inputs, shape = [first], shape_of(first)
    for other in draw(st.lists(st.sampled_from(values), max_size=3)):
        if t.element_type_of(other) == element:
            try:
                shape = t.broadcast_shape(shape, shape_of(other))
            except ValueError:
                continue
            inputs.append(other)
    block = Block(arg_types=[element] * len(inputs))
    scalars: list[SSAValue] = list(block.args)
    for kind in draw(st.lists(st.sampled_from(["add", "mul", "constant"]), max_size=3)):
        a, b = draw(st.sampled_from(scalars)), draw(st.sampled_from(scalars))
        op = (
            ConstantOp(FloatAttr(0.5, element))
            if kind == "constant"
            else {"add": AddfOp, "mul": MulfOp}[kind](a, b)
        )
        block.add_op(op)
        scalars.append(op.results[0])
    block.add_op(t.YieldOp(draw(st.sampled_from(scalars))))
    return t.ElementwiseOp(inputs, block, TensorType(element, shape))


MAKERS = (reshape, transpose, slice_, broadcast, concat, full, reduce_, elementwise)


@st.composite
def programs(draw) -> ModuleOp:
    """A step with two inputs, up to ten ops, and some of the values as outputs."""
    block = Block()
    values: list[SSAValue] = []
    for name, element in (("a", f32), ("b", draw(st.sampled_from([f32, bf16])))):
        shape = draw(st.lists(SIZES, min_size=1, max_size=3))
        op = t.InputOp(name, TensorType(element, shape))
        block.add_op(op)
        values.append(op.result)
    for maker in draw(st.lists(st.sampled_from(MAKERS), min_size=1, max_size=10)):
        op = maker(draw, values)
        if prod(shape_of(op.results[0])) > 500:
            continue
        block.add_op(op)
        values.append(op.results[0])
    chosen = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
    for i, value in enumerate([*chosen, values[-1]]):
        block.add_op(t.OutputOp(f"out{i}", value))
    block.add_op(ReturnOp())
    return ModuleOp([FuncOp("step", ((), ()), Region(block))])


def context() -> Context:
    result = Context()
    for dialect in (Builtin, Arith, Math, Func, t.Tensor):
        result.load_dialect(dialect)
    return result


def inputs_of(module: ModuleOp) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        op.sym.data: rng.integers(-4, 5, shape_of(op.result)).astype(
            storage_dtype(t.element_type_of(op.result))
        )
        for op in module.walk()
        if isinstance(op, t.InputOp)
    }


@given(programs())
@settings(max_examples=60)
def test_text_comes_back(module: ModuleOp) -> None:
    module.verify()
    for generic in (False, True):
        text = StringIO()
        Printer(text, print_generic_format=generic).print_op(module)
        parsed = Parser(context(), text.getvalue()).parse_module()
        assert parsed.is_structurally_equivalent(module)


@given(programs())
@settings(max_examples=150)
def test_canonicalization_keeps_the_numbers(module: ModuleOp) -> None:
    module.verify()
    inputs = inputs_of(module)
    before = run_step(module, {}, {}, inputs, 0)
    CanonicalizePass().apply(context(), module)
    module.verify()
    after = run_step(module, {}, {}, inputs, 0)
    assert before.keys() == after.keys()
    for name, expected in before.items():
        assert after[name].dtype == expected.dtype
        np.testing.assert_array_equal(after[name].astype(np.float32), expected.astype(np.float32))
    # A second time finds nothing more to do.
    text = str(module)
    CanonicalizePass().apply(context(), module)
    assert str(module) == text
