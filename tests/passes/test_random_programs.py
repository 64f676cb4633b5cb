"""Random programs of operators keep their numbers through every pass of the tensor level."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.dialects import arith, func, math
from xdsl.dialects.builtin import ModuleOp, TensorType, bf16, f16, f32
from xdsl.ir import Attribute, Block, Region, SSAValue

from mpkir.dialects import tensor
from mpkir.passes.fuse_operators import FuseOperatorsPass
from mpkir.passes.partition_tiles import PartitionTilesPass
from mpkir.passes.split_reductions import SplitReductionsPass
from mpkir.passes.widen_activations import WidenActivationsPass

TOLERANCE = {f32: 1e-4, f16: 0.02, bf16: 0.1}
"""Of the largest element: fused operators round less often than those they came from."""
SHAPES = [(1, 12), (3, 12), (1, 20), (5, 20), (2, 3, 20), (1, 1)]


class Program:
    """A step under construction: values that operators may read, by shape."""

    def __init__(self, draw: st.DrawFn, type: Attribute) -> None:
        self.draw, self.type = draw, type
        self.block = Block()
        self.values: list[SSAValue] = []
        self.weights = 0
        self.position = self.add(tensor.PositionOp(1))

    def add(self, op) -> SSAValue:
        self.block.add_op(op)
        return op.results[0]

    def keep(self, op) -> None:
        self.values.append(self.add(op))

    def weight(self, *shape: int) -> SSAValue:
        self.weights += 1
        return self.add(tensor.WeightOp(f"w{self.weights}", TensorType(self.type, shape)))

    def any(self) -> SSAValue:
        """One of the values, a late one rather than an early one."""
        last = len(self.values) - 1
        return self.values[max(0, last - self.draw(st.integers(0, last)))]

    def pointwise(self) -> None:
        x = self.any()
        shape = tensor.shape_of(x)
        inputs = [x]
        for _ in range(self.draw(st.integers(0, 2))):
            fitting = [v for v in self.values if tensor.shape_of(v) == shape]
            extra = self.draw(st.sampled_from(["same", "row", "column", "scalar", "itself"]))
            match extra:
                case "same":
                    inputs.append(self.draw(st.sampled_from(fitting)))
                case "row":
                    inputs.append(self.weight(shape[-1]))
                case "column":
                    inputs.append(self.weight(*shape[:-1], 1))
                case "scalar":
                    inputs.append(self.weight())
                case _:
                    inputs.append(x)
        self.keep(tensor.ElementwiseOp(inputs, self.scalars(len(inputs)), x.type))

    def scalars(self, count: int) -> Block:
        """Arithmetic on the arguments, each rounded to the program's type, in it or in f32."""
        block = Block(arg_types=[self.type] * count)

        def wide(value: SSAValue) -> SSAValue:
            if self.type == f32:
                return value
            block.add_op(op := arith.ExtFOp(value, f32))
            return op.result

        def narrow(value: SSAValue) -> SSAValue:
            if self.type == f32:
                return value
            block.add_op(op := arith.TruncFOp(value, self.type))
            return op.result

        value: SSAValue = block.args[0]
        for other in block.args[1:]:
            kind = self.draw(st.sampled_from([arith.AddfOp, arith.SubfOp, arith.MaximumfOp]))
            if self.draw(st.booleans()):
                block.add_op(op := kind(wide(value), wide(other)))
                value = narrow(op.result)
            else:
                block.add_op(op := kind(value, other))
                value = op.result
        if self.draw(st.booleans()):
            block.add_op(op := math.TanhOp(wide(value)))
            value = narrow(op.result)
        block.add_op(tensor.YieldOp(value))
        return block

    def linear(self) -> None:
        x = self.any()
        shape = tensor.shape_of(x)
        features = self.draw(st.sampled_from([shape[-1], 12, 20, 7, 1]))
        self.keep(tensor.LinearOp(x, [self.weight(features, shape[-1])], self.type))

    def norm(self) -> None:
        x = self.any()
        size = tensor.shape_of(x)[-1]
        # A large eps: differences of equals must not become noise of size one.
        if self.draw(st.booleans()):
            self.keep(tensor.RmsNormOp(x, self.weight(size), 1.0))
        else:
            self.keep(tensor.LayerNormOp(x, self.weight(size), self.weight(size), 1.0))

    def reshape(self) -> None:
        x = self.any()
        shape = tensor.shape_of(x)
        *rows, last = shape
        views = [(*rows, 1, last), (1, *shape)] if len(shape) == 2 else [(*rows[:-1], last)]
        views = [v for v in views if _count(v) == _count(shape)]
        if views:
            self.keep(tensor.ReshapeOp(x, self.draw(st.sampled_from(views))))

    def reduce(self) -> None:
        x = self.any()
        dim = self.draw(st.integers(0, len(tensor.shape_of(x)) - 1))
        kind = self.draw(st.sampled_from(list(tensor.ReductionKind)))
        self.keep(tensor.ReduceOp(kind, x, [dim]))

    def softmax(self) -> None:
        self.keep(tensor.SoftmaxOp(self.any()))


def _count(shape) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


class Drawn:
    """A program, shown as text, and how exactly its numbers have to be kept."""

    def __init__(self, module: ModuleOp, tolerance: float) -> None:
        self.module, self.tolerance = module, tolerance

    def __repr__(self) -> str:
        return str(self.module)


@st.composite
def programs(draw: st.DrawFn) -> Drawn:
    """A program with inputs, states, a cache and outputs."""
    type = draw(st.sampled_from([f32, bf16, f16]))
    program = Program(draw, type)
    for i in range(draw(st.integers(1, 2))):
        program.keep(tensor.InputOp(f"x{i}", TensorType(type, draw(st.sampled_from(SHAPES)))))
    names = ("s0", "s1")[: draw(st.integers(0, 2))]
    states = {name: TensorType(type, draw(st.sampled_from(SHAPES))) for name in names}
    for name, each in states.items():
        program.keep(tensor.StateOp(name, each))
    cache = program.add(tensor.StateOp("cache", TensorType(type, [1, 2, 8, 3])))
    caches = [cache]
    makers = [
        Program.pointwise,
        Program.pointwise,
        Program.linear,
        Program.linear,
        Program.norm,
        Program.reshape,
        Program.reduce,
        Program.softmax,
    ]
    waiting = dict(states)
    for _ in range(draw(st.integers(2, 9))):
        draw(st.sampled_from(makers))(program)
        if draw(st.integers(0, 3)) == 0:
            new = program.add(tensor.InputOp(f"n{len(caches)}", TensorType(type, [1, 2, 1, 3])))
            old = draw(st.sampled_from(caches))
            caches.append(program.add(tensor.CacheAppendOp(old, new, program.position)))
        if waiting and draw(st.integers(0, 3)) == 0:
            # A state stored in mid-program: what is behind may still read the old value.
            name = draw(st.sampled_from(sorted(waiting)))
            store(program, name, waiting.pop(name))
    for name, each in waiting.items():
        if draw(st.booleans()):
            store(program, name, each)
    if draw(st.booleans()):
        program.block.add_op(tensor.StoreStateOp("cache", draw(st.sampled_from(caches))))
    for i in range(draw(st.integers(1, 3))):
        program.block.add_op(tensor.OutputOp(f"y{i}", program.any()))
    program.block.add_op(tensor.OutputOp("last", program.values[-1]))
    if draw(st.booleans()):
        program.block.add_op(tensor.OutputOp("kept", draw(st.sampled_from(caches))))
    program.block.add_op(func.ReturnOp())
    module = ModuleOp([func.FuncOp("step", ((), ()), Region(program.block))])
    module.verify()
    return Drawn(module, TOLERANCE[type])


def store(program: Program, name: str, type: TensorType) -> None:
    fitting = [value for value in program.values if value.type == type]
    program.block.add_op(tensor.StoreStateOp(name, program.draw(st.sampled_from(fitting))))


FUSE, WIDEN = FuseOperatorsPass(), WidenActivationsPass()
WIDEN_ALL, SPLIT = WidenActivationsPass(scope="all"), SplitReductionsPass(4, 3)


@pytest.mark.parametrize(
    "passes",
    [(FUSE,), (WIDEN,), (WIDEN_ALL,), (FUSE, WIDEN), (FUSE, WIDEN_ALL, SPLIT)],
    ids=["fuse", "widen", "widen-all", "fuse-widen", "all"],
)
@given(data=st.data())
@settings(suppress_health_check=list(HealthCheck), max_examples=60)
def test_operators_keep_their_numbers(assert_same_numbers, passes, data: st.DataObject):
    drawn = data.draw(programs())
    module, tolerance = drawn.module, drawn.tolerance
    changed = module.clone()
    for each in passes:
        each.apply(Context(), changed)
        changed.verify()
    assert_same_numbers(module, changed, tolerance)


@pytest.mark.parametrize("fused", [False, True])
@given(data=st.data(), workers=st.integers(1, 5))
@settings(suppress_health_check=list(HealthCheck), max_examples=120)
def test_tasks_compute_what_operators_do(assert_same_numbers, fused, data, workers: int):
    """Tiles of every size on buffers that are shared, updated in place and read late."""
    drawn = data.draw(programs())
    module, tolerance = drawn.module, drawn.tolerance
    lowered = module.clone()
    if fused:
        for each in (FUSE, WIDEN):
            each.apply(Context(), lowered)
    PartitionTilesPass(workers=workers, min_elements=4).apply(Context(), lowered)
    lowered.verify()
    assert_same_numbers(module, lowered, tolerance if fused else 1e-4)
