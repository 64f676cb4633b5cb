"""Operators that carry a definition compute what it says, and are tiled as it allows."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, TensorType, f32, i64
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Operation, Region
from xdsl.utils.test_value import create_ssa_value

from mpkir.backends.interpreter.kernels import Scalars, evaluate
from mpkir.dialects import task
from mpkir.dialects import tensor as t
from mpkir.dialects.notation import Range, define
from mpkir.passes.partition_tiles import PartitionTilesPass

RNG = np.random.default_rng(0)
CASES = {
    "linear": (lambda x, w: t.LinearOp(x, [w], f32), (3, 5), (37, 5)),
    "matmul": (t.MatmulOp, (4, 3, 5), (4, 5, 7)),
    "embedding": (t.EmbeddingOp, (9, 4), (6,)),
}


def element_type(shape: tuple[int, ...]):
    return i64 if len(shape) == 1 else f32


@pytest.mark.parametrize("name", CASES)
def test_operator_computes_its_definition(name: str) -> None:
    make, *shapes = CASES[name]
    op: Operation = make(*(create_ssa_value(TensorType(element_type(s), s)) for s in shapes))
    definition = define(op.NOTATION)
    arrays = [
        RNG.integers(0, 9, s) if len(s) == 1 else RNG.random(s, dtype=np.float32) for s in shapes
    ]
    (result,) = evaluate(op, arrays, Scalars())
    names = [access.name for access in definition.inputs]
    expected = definition.reference(dict(zip(names, arrays, strict=True)))
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def ranges(box: task.RegionAttr, coordinates: tuple[int, ...], shape) -> list[Range]:
    """The box of a task, cut at the buffer's end."""
    offsets = box.offsets_at(coordinates)
    return [(o, min(n, s - o)) for o, n, s in zip(offsets, box.shape, shape, strict=True)]


@pytest.mark.parametrize("workers", [1, 3, 16])
@pytest.mark.parametrize("name", CASES)
def test_tiles_read_the_footprint_and_write_everything_once(name: str, workers: int) -> None:
    make, *shapes = CASES[name]
    block = Block()
    for i, shape in enumerate(shapes):
        block.add_op(t.InputOp(f"in{i}", TensorType(element_type(shape), shape)))
    op = make(*(source.results[0] for source in block.ops))
    definition, result = define(op.NOTATION), t.shape_of(op.result)
    block.add_ops([op, t.OutputOp("out", op.result), ReturnOp()])
    module = ModuleOp([FuncOp("step", ((), ()), Region(block))])
    PartitionTilesPass(workers=workers, min_elements=1).apply(Context(), module)

    names = [access.name for access in definition.inputs]
    sizes = definition.sizes(dict(zip(names, shapes, strict=True)))
    (grid,) = [g for g in module.walk() if isinstance(g, task.GridOp)]
    written = 0
    for index in range(grid.size):
        at = grid.coordinates(index)
        tile = ranges(grid.write_boxes[0], at, result)
        written += prod(length for _, length in tile)
        needed = definition.footprint(dict(zip(definition.output.axes, tile, strict=True)), sizes)
        for box, shape, operand in zip(grid.read_boxes, shapes, needed, strict=True):
            whole = [(0, size) for size in shape]
            expected = [have or all_ for have, all_ in zip(operand, whole, strict=True)]
            assert ranges(box, at, shape) == expected
    assert written == prod(result)
