"""Chains of views on buffers: the right elements, copied where an operator needs rows and nowhere
else.
"""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided
from xdsl.context import Context
from xdsl.dialects import arith, func
from xdsl.dialects.builtin import ModuleOp, TensorType, f32
from xdsl.ir import Block, Operation, Region, SSAValue

from mpkir.dialects import task, tensor
from mpkir.passes.partition_tiles import PartitionTilesPass
from mpkir.passes.tiling.layouts import Layout


@st.composite
def views(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[str, tuple]:
    """A view that fits a shape, and its parameters."""
    kind = draw(st.sampled_from(["reshape", "transpose", "slice", "broadcast"]))
    match kind:
        case "reshape":
            flat = prod(shape)
            first = draw(st.sampled_from([n for n in range(1, flat + 1) if flat % n == 0]))
            shapes = [(first, flat // first), (flat,), (1, *shape), (*shape, 1), shape[::-1]]
            return kind, draw(st.sampled_from(shapes))
        case "transpose":
            return kind, tuple(draw(st.permutations(range(len(shape)))))
        case "slice":
            dim = draw(st.integers(0, len(shape) - 1))
            start = draw(st.integers(0, shape[dim] - 1))
            step = draw(st.integers(1, 3))
            length = draw(st.integers(1, (shape[dim] - 1 - start) // step + 1))
            return kind, (dim, start, length, step)
        case _:
            sizes = tuple(draw(st.integers(1, 3)) if n == 1 else n for n in shape)
            return kind, (draw(st.integers(1, 2)), *sizes) if draw(st.booleans()) else sizes


@given(data=st.data(), shape=st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple))
@settings(suppress_health_check=list(HealthCheck), max_examples=200)
def test_a_layout_is_where_numpy_finds_the_elements(data, shape: tuple[int, ...]) -> None:
    """A reshape is refused only if NumPy would have to copy, too."""
    buffer = np.arange(prod(shape))
    array, layout = buffer.reshape(shape), Layout.dense(shape)
    for _ in range(data.draw(st.integers(1, 4))):
        kind, what = data.draw(views(layout.shape))
        match kind:
            case "reshape":
                following, wanted = layout.reshaped(what), array.reshape(what)
                if following is None:
                    assert not np.shares_memory(wanted, array)
                    return
            case "transpose":
                following, wanted = layout.transposed(what), array.transpose(what)
            case "slice":
                dim, start, length, step = what
                following = layout.sliced(dim, start, length, step)
                index = [slice(None)] * dim + [slice(start, start + (length - 1) * step + 1, step)]
                wanted = array[tuple(index)]
            case _:
                following, wanted = layout.broadcast(what), np.broadcast_to(array, what)
        layout, array = following, wanted
        assert layout.shape == array.shape
        found = as_strided(buffer[layout.offset :], layout.shape, [8 * s for s in layout.strides])
        np.testing.assert_array_equal(found, array)


class Step:
    """A step under construction from views and a few operators that read them."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.block = Block()
        self.values: list[SSAValue] = []
        self.weights = 0

    def add(self, op: Operation) -> SSAValue:
        self.block.add_op(op)
        return op.results[0]

    def view(self) -> None:
        x = self.draw(st.sampled_from(self.values[-4:]))
        shape = tensor.shape_of(x)
        kind, what = self.draw(views(shape))
        match kind:
            case "reshape":
                op = tensor.ReshapeOp(x, what)
            case "transpose":
                op = tensor.TransposeOp(x, what)
            case "slice":
                op = tensor.SliceOp(x, *what)
            case _:
                op = tensor.BroadcastOp(x, what)
        self.values.append(self.add(op))

    def operator(self) -> None:
        x = self.draw(st.sampled_from(self.values[-4:]))
        shape = tensor.shape_of(x)
        kind = self.draw(
            st.sampled_from(["add", "sum", "softmax", "linear", "matmul", "concat", "norm"])
        )
        match kind:
            case "add":
                alike = [v for v in self.values if tensor.shape_of(v) == shape]
                block = Block(arg_types=[f32, f32])
                block.add_op(total := arith.AddfOp(*block.args))
                block.add_op(tensor.YieldOp(total.result))
                op = tensor.ElementwiseOp([x, self.draw(st.sampled_from(alike))], block, x.type)
            case "sum":
                dim = self.draw(st.integers(0, len(shape) - 1))
                op = tensor.ReduceOp(tensor.ReductionKind.SUM, x, [dim])
            case "softmax":
                op = tensor.SoftmaxOp(x)
            case "linear":
                if len(shape) < 2:
                    return
                op = tensor.LinearOp(x, [self.weight(3, shape[-1])], f32)
            case "matmul":
                if len(shape) != 2:
                    return
                op = tensor.MatmulOp(x, self.add(tensor.TransposeOp(x, (1, 0))))
            case "concat":
                op = tensor.ConcatOp([x, x], len(shape) - 1)
            case _:
                op = tensor.RmsNormOp(x, self.weight(shape[-1]), 1.0)
        self.values.append(self.add(op))

    def weight(self, *shape: int) -> SSAValue:
        self.weights += 1
        return self.add(tensor.WeightOp(f"w{self.weights}", TensorType(f32, shape)))


@st.composite
def steps(draw: st.DrawFn) -> ModuleOp:
    """Views of inputs, states and results; a state is built up in place, perhaps from its parts."""
    step = Step(draw)
    step.values.append(step.add(tensor.InputOp("x", TensorType(f32, (4, 6)))))
    cache_type = TensorType(f32, (1, 2, 4, 3))
    cache = step.add(tensor.StateOp("cache", cache_type))
    kept = step.add(tensor.StateOp("kept", TensorType(f32, (4, 6))))
    position = step.add(tensor.PositionOp(1))
    step.values += [kept, cache]
    for _ in range(draw(st.integers(1, 8))):
        draw(st.sampled_from([step.view, step.view, step.operator]))()
        if draw(st.integers(0, 3)) == 0:
            # A row of the cache itself, as it is now or was before.
            old = draw(st.sampled_from([v for v in step.values if v.type == cache_type]))
            row = step.add(tensor.SliceOp(old, 2, draw(st.integers(0, 3)), 1))
            cache = step.add(tensor.CacheAppendOp(cache, row, position))
            step.values += [row, cache]
    for name, like in (("cache", cache_type), ("kept", kept.type)):
        fitting = [v for v in step.values if v.type == like]
        if draw(st.booleans()):
            step.block.add_op(tensor.StoreStateOp(name, draw(st.sampled_from(fitting))))
    for number in range(draw(st.integers(1, 2))):
        value = draw(st.sampled_from(step.values))
        step.block.add_op(tensor.OutputOp(f"y{number}", value))
    step.block.add_op(tensor.OutputOp("last", step.values[-1]))
    step.block.add_op(func.ReturnOp())
    module = ModuleOp([func.FuncOp("step", ((), ()), Region(step.block))])
    module.verify()
    return module


@given(module=steps(), workers=st.integers(1, 3))
@settings(suppress_health_check=list(HealthCheck), max_examples=150)
def test_tasks_read_through_views(assert_same_numbers, module: ModuleOp, workers: int) -> None:
    tiled = module.clone()
    PartitionTilesPass(workers=workers, min_elements=4).apply(Context(), tiled)
    tiled.verify()
    assert_same_numbers(module, tiled)


def grids(module: ModuleOp) -> list[str]:
    return [op.sym_name.data for op in module.walk() if isinstance(op, task.GridOp)]


PROGRAM = """
func.func @step() {{
  %x = mpk_tensor.input "x" : tensor<4x6xf32>
  %w = mpk_tensor.weight "w" : tensor<5x4xf32>
  %s = mpk_tensor.slice %x dim 1 start 1 step 2 : tensor<4x6xf32> to tensor<4x3xf32>
  %t = mpk_tensor.transpose %s [1, 0] : tensor<4x3xf32> to tensor<3x4xf32>
  {body}
  func.return
}}
"""


@pytest.mark.parametrize(
    ("body", "tasks"),
    [
        pytest.param(
            "%y = mpk_tensor.softmax %t : tensor<3x4xf32> to tensor<3x4xf32>\n"
            'mpk_tensor.output "y", %y : tensor<3x4xf32>',
            ["softmax"],
            id="any order will do",
        ),
        pytest.param(
            "%y = mpk_tensor.linear %t, [%w] : tensor<3x4xf32>, [tensor<5x4xf32>] "
            "to tensor<3x5xf32>\n"
            'mpk_tensor.output "y", %y : tensor<3x5xf32>',
            ["copy.x", "linear"],
            id="rows are needed",
        ),
        pytest.param(
            "%r = mpk_tensor.reshape %t : tensor<3x4xf32> to tensor<12xf32>\n"
            'mpk_tensor.output "r", %r : tensor<12xf32>\n'
            "%u = mpk_tensor.reshape %t : tensor<3x4xf32> to tensor<2x6xf32>\n"
            "%y = mpk_tensor.softmax %u : tensor<2x6xf32> to tensor<2x6xf32>\n"
            'mpk_tensor.output "y", %y : tensor<2x6xf32>',
            ["reshape", "reshape.1", "softmax"],
            id="no strides say it",
        ),
    ],
)
def test_what_is_copied(run, assert_same_numbers, body: str, tasks: list[str]) -> None:
    text = PROGRAM.format(body=body)
    tiled = run(text, "mpk-partition-tiles{workers=2}")
    assert grids(tiled) == tasks
    assert_same_numbers(run(text, ""), tiled)
