"""Random programs divided in random ways, whatever they cost, keep their numbers on all ranks."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects import arith, func
from xdsl.dialects.builtin import ModuleOp, TensorType, f32
from xdsl.ir import Block, Operation, Region, SSAValue

from mpkir.backends.interpreter.tensor_level import TensorProgram
from mpkir.dialects import tensor as t
from mpkir.dialects.mesh import set_ranks
from mpkir.dialects.tensor import shape_of
from mpkir.machine import machine_named
from mpkir.passes.sharding.costs import Costs
from mpkir.passes.sharding.forms import WHOLE, Way
from mpkir.passes.sharding.rewriting import Division
from mpkir.passes.sharding.search import cheapest_ways

SIZES = st.sampled_from([1, 2, 3, 4, 4, 6, 8, 8])


class AnyCosts(Costs):
    """Costs drawn by lot, so that every way is the cheapest of some program; parts are likely."""

    lots: random.Random

    def of_way(self, op: Operation, way: Way) -> float:
        whole = all(form == WHOLE for form in (*way.operands, *way.results))
        return self.lots.random() + whole

    def of_gather(self, *_: object) -> float:
        return self.lots.random()


class Program:
    """A step under construction, on states and weights, which ranks may have parts of."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.block = Block()
        self.values: list[SSAValue] = []
        self.names = 0

    def named(self, kind: Callable[..., Operation], *shape: int) -> SSAValue:
        self.names += 1
        self.block.add_op(op := kind(f"n{self.names}", TensorType(f32, shape)))
        return op.results[0]

    def any(self, rank: int = 1) -> SSAValue:
        """A value of at least a rank, a late one rather than an early one."""
        fitting = [value for value in self.values if len(shape_of(value)) >= rank]
        if not fitting:
            return self.named(t.StateOp, *(self.draw(SIZES) for _ in range(rank)))
        return fitting[-1 - min(self.draw(st.integers(0, 9)), len(fitting) - 1)]

    def grow(self) -> None:
        makers = [
            self.linear, self.linear, self.matmul, self.elementwise, self.elementwise, self.reshape,
            self.transpose, self.slice_, self.concat, self.broadcast, self.reduce, self.norm,
            self.argmax, self.cache, self.fused,
        ]  # fmt: skip
        op = self.draw(st.sampled_from(makers))()
        if prod(shape_of(op.results[0])) > 1000:
            return
        self.block.add_op(op)
        if t.element_type_of(op.results[0]) == f32:
            self.values.append(op.results[0])
        else:
            self.block.add_op(t.OutputOp(f"argmax{len(self.block.ops)}", op.results[0]))

    def linear(self) -> Operation:
        x = self.any(2)
        n = self.draw(SIZES)
        weight = self.named(t.WeightOp, n, shape_of(x)[-1])
        if self.draw(st.booleans()):
            return t.LinearOp(x, [weight], f32)
        # A bias, of all features or of one.
        block = Block(arg_types=[f32, f32])
        block.add_ops([op := arith.AddfOp(*block.args), t.YieldOp(op.result)])
        bias = self.named(t.WeightOp, self.draw(st.sampled_from([n, 1])))
        return t.LinearOp(x, [weight], f32, epilogue=Region(block), epilogue_args=[bias])

    def fused(self) -> Operation:
        """Slices of a product, one after another, as of queries, keys and values in one."""
        sizes = self.draw(st.lists(SIZES, min_size=2, max_size=3))
        x = self.any(2)
        weight = self.named(t.WeightOp, sum(sizes), shape_of(x)[-1])
        self.block.add_op(product := t.LinearOp(x, [weight], f32))
        result, dim, start = product.result, len(shape_of(x)) - 1, 0
        for size in sizes:
            self.block.add_op(piece := t.SliceOp(result, dim, start, size))
            self.values.append(piece.result)
            start += size
        # Several of them, too.
        return t.SliceOp(result, dim, sizes[0], start - sizes[0])

    def matmul(self) -> Operation:
        a = self.any(2)
        *lead, _, k = shape_of(a)
        lead = lead if self.draw(st.booleans()) else []
        return t.MatmulOp(a, self.named(t.StateOp, *lead, k, self.draw(SIZES)))

    def elementwise(self) -> Operation:
        a = self.any()
        fitting = [v for v in self.values if _broadcasts(shape_of(v), shape_of(a))]
        b = self.draw(st.sampled_from([*fitting, self.named(t.WeightOp, *shape_of(a))]))
        block = Block(arg_types=[f32, f32])
        block.add_ops([op := arith.AddfOp(*block.args), t.YieldOp(op.result)])
        return t.ElementwiseOp([a, b], block, TensorType(f32, shape_of(a)))

    def reshape(self) -> Operation:
        x = self.any()
        shape = list(shape_of(x))
        kind = self.draw(st.integers(0, 2))
        if kind == 0 and len(shape) > 1:
            at = self.draw(st.integers(0, len(shape) - 2))
            shape[at : at + 2] = [shape[at] * shape[at + 1]]
        else:
            at = self.draw(st.integers(0, len(shape) - 1))
            outer = self.draw(st.sampled_from([n for n in (1, 2, 3, 4) if shape[at] % n == 0]))
            shape[at : at + 1] = [outer, shape[at] // outer]
        return t.ReshapeOp(x, shape)

    def transpose(self) -> Operation:
        x = self.any()
        return t.TransposeOp(x, self.draw(st.permutations(range(len(shape_of(x))))))

    def slice_(self) -> Operation:
        x = self.any()
        dim = self.draw(st.integers(0, len(shape_of(x)) - 1))
        start = self.draw(st.integers(0, shape_of(x)[dim] - 1))
        return t.SliceOp(x, dim, start, self.draw(st.integers(1, shape_of(x)[dim] - start)))

    def concat(self) -> Operation:
        x = self.any()
        return t.ConcatOp([x, x], self.draw(st.integers(0, len(shape_of(x)) - 1)))

    def broadcast(self) -> Operation:
        x = self.any()
        return t.BroadcastOp(x, [self.draw(st.sampled_from([2, 4])), *shape_of(x)])

    def reduce(self) -> Operation:
        x = self.any()
        dims = self.draw(st.sets(st.integers(0, len(shape_of(x)) - 1), min_size=1))
        return t.ReduceOp(t.ReductionKind.SUM, x, sorted(dims))

    def norm(self) -> Operation:
        x = self.any()
        if self.draw(st.booleans()):
            return t.SoftmaxOp(x)
        return t.RmsNormOp(x, self.named(t.WeightOp, shape_of(x)[-1]), 1.0)

    def argmax(self) -> Operation:
        return t.ArgmaxOp(self.any(2))

    def cache(self) -> Operation:
        """An append to a cache that is stored, of what the cache held."""
        shape = [1, self.draw(SIZES), 4, 3]
        cache = self.named(t.StateOp, *shape)
        name = f"n{self.names}"
        self.block.add_op(position := t.PositionOp())
        self.block.add_op(new := t.SliceOp(cache, 2, 3, 1))
        self.block.add_op(op := t.CacheAppendOp(cache, new.result, position.result))
        self.block.add_op(t.StoreStateOp(name, op.result))
        return t.SoftmaxOp(op.result)


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(
        a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False)
    )


@st.composite
def programs(draw: st.DrawFn) -> ModuleOp:
    program = Program(draw)
    for _ in range(draw(st.integers(2, 9))):
        program.grow()
    for i, value in enumerate(program.values[-3:]):
        program.block.add_op(t.OutputOp(f"y{i}", value))
    program.block.add_op(func.ReturnOp())
    module = ModuleOp([func.FuncOp("step", ((), ()), Region(program.block))])
    module.verify()
    return module


@given(module=programs(), ranks=st.sampled_from([2, 3, 4, 8]), seed=st.integers(0, 999))
@settings(max_examples=200)
def test_any_division_keeps_the_numbers(module: ModuleOp, ranks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    given_arrays: dict[type, dict[str, np.ndarray]] = {t.WeightOp: {}, t.StateOp: {}}
    for op in module.walk():
        if isinstance(op, t.WeightOp | t.StateOp):
            values = rng.standard_normal(shape_of(op.result)).astype(np.float32)
            given_arrays[type(op)][op.sym.data] = values
    parts = module.clone()
    set_ranks(parts, ranks)
    costs = AnyCosts(machine_named("cpu"), ranks)
    object.__setattr__(costs, "lots", random.Random(seed))
    (step,) = parts.body.block.ops
    assert isinstance(step, func.FuncOp)
    Division(ranks, cheapest_ways(step.body.block, costs)).apply(step.body.block)
    parts.verify()

    weights, states = given_arrays[t.WeightOp], given_arrays[t.StateOp]
    own = {name: value.copy() for name, value in states.items()}
    wanted = TensorProgram(module, weights).step(states, {}, 1)
    found = TensorProgram(parts, weights).step(own, {}, 1)
    for name, value in (wanted | states).items():
        np.testing.assert_allclose((found | own)[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
