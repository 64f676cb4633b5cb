"""What event tensors order beside what they have to."""

from __future__ import annotations

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from mpkir.analysis.families import families_of
from mpkir.analysis.orderings import step_orderings_of
from mpkir.analysis.precision import Precision, precision_of
from mpkir.dialects import event
from mpkir.passes.lower_dependencies import LowerDependenciesPass
from mpkir.pipeline import context

# Tiles of `{tile}` over heads of 16, and a state that every step reads and writes.
TEXT = """
func.func @step() {{
  %x = mpk_task.buffer scratch "x" : memref<64xf32>
  %s = mpk_task.buffer state "s" : memref<4x16xf32>
  %v = mpk_task.view %x : memref<64xf32> to memref<4x16xf32>
  mpk_task.grid @tiles [{tiles}] writes(%x : memref<64xf32>)
    boxes [#mpk_task.region<affine_map<(d0) -> (d0 * {tile})>, [{tile}]>] {{
    %0 = mpk_tensor.full 1.0 : f32 : tensor<{tile}xf32>
    mpk_task.yield %0 : tensor<{tile}xf32>
  }}
  mpk_task.grid @heads [4] reads(%v : memref<4x16xf32>) writes(%s : memref<4x16xf32>)
    boxes [#mpk_task.region<affine_map<(d0) -> (d0, 0)>, [1, 16]>,
           #mpk_task.region<affine_map<(d0) -> (d0, 0)>, [1, 16]>] {{
  ^bb0(%0 : tensor<1x16xf32>):
    mpk_task.yield %0 : tensor<1x16xf32>
  }}
  func.return
}}
"""


def parse(tile: int) -> ModuleOp:
    text = TEXT.format(tile=tile, tiles=-(-64 // tile))
    return Parser(context(), text).parse_module()


def lowered(tile: int) -> ModuleOp:
    module = parse(tile)
    LowerDependenciesPass().apply(Context(), module)
    return module


def figures(module: ModuleOp) -> tuple[int, int] | None:
    """What the first event tensor says of itself."""
    op = next(op for op in module.walk() if isinstance(op, event.TensorOp))
    if op.ordered is None or op.conflicting is None:
        return None
    return op.ordered.value.data, op.conflicting.value.data


def test_tiles_that_divide_heads_are_exact() -> None:
    module = lowered(8)
    assert figures(module) is None
    assert precision_of(module, families_of(module)) == [Precision("e0", 8, 8)]


def test_tiles_that_straddle_heads_order_more() -> None:
    # Groups of four tiles and three heads, and what is left: two tiles and one head.
    assert figures(lowered(12)) == (4 * 3 + 2 * 1, 8)


def test_figures_are_those_of_the_edges() -> None:
    for tile in (3, 5, 6, 12, 24):
        module = lowered(tile)
        (found,) = precision_of(module, families_of(module))
        assert figures(module) == (found.ordered, found.needed)
        ends = [(t, min(t + tile, 64) - 1) for t in range(0, 64, tile)]
        assert found.needed == sum(last // 16 - first // 16 + 1 for first, last in ends)


def test_from_step_to_step() -> None:
    """The next step's tiles wait for the heads that read them; a state is written again."""
    found = {
        (o.earlier.name, o.later.name): o.pairs for o in step_orderings_of(families_of(parse(8)))
    }
    assert found == {("tiles", "tiles"): 8, ("heads", "tiles"): 8, ("heads", "heads"): 4}
