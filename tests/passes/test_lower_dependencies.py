"""lower-dependencies on grids of any number of tasks."""

from __future__ import annotations

from time import process_time

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from mpkir.analysis.families import families_of
from mpkir.dialects import event
from mpkir.passes.lower_dependencies import LowerDependenciesPass
from mpkir.pipeline import context

# `n` rows of 8 tiles, rows of 128 through a reshape, their sum over a slice of every row, and tiles
# that overwrite what the rows came from.
TEXT = """
func.func @step() {{
  %x = mpk_task.buffer scratch "x" : memref<{all}xf32>
  %y = mpk_task.buffer scratch "y" : memref<{n}x128xf32>
  %z = mpk_task.buffer output "z" : memref<{n}xf32>
  %rows = mpk_task.view %x : memref<{all}xf32> to memref<{n}x128xf32>
  %half = mpk_task.view %y :
    memref<{n}x128xf32> to memref<{n}x64xf32, strided<[128, 1], offset: 64>>
  mpk_task.grid @tiles [{n}, 8] writes(%x : memref<{all}xf32>)
    boxes [#mpk_task.region<affine_map<(d0, d1) -> (d0 * 128 + d1 * 16)>, [16]>] {{
    %0 = mpk_tensor.full 1.0 : f32 : tensor<16xf32>
    mpk_task.yield %0 : tensor<16xf32>
  }}
  mpk_task.grid @rows [{n}] reads(%rows : memref<{n}x128xf32>) writes(%y : memref<{n}x128xf32>)
    boxes [#mpk_task.region<affine_map<(d0) -> (d0, 0)>, [1, 128]>,
           #mpk_task.region<affine_map<(d0) -> (d0, 0)>, [1, 128]>] {{
  ^bb0(%0 : tensor<1x128xf32>):
    mpk_task.yield %0 : tensor<1x128xf32>
  }}
  mpk_task.grid @sums [{n}] reads(%half : memref<{n}x64xf32, strided<[128, 1], offset: 64>>)
    writes(%z : memref<{n}xf32>)
    boxes [#mpk_task.region<affine_map<(d0) -> (d0, 0)>, [1, 64]>,
           #mpk_task.region<affine_map<(d0) -> (d0)>, [1]>] {{
  ^bb0(%0 : tensor<1x64xf32>):
    %1 = mpk_tensor.full 1.0 : f32 : tensor<1xf32>
    mpk_task.yield %1 : tensor<1xf32>
  }}
  mpk_task.grid @again [{n}, 4] writes(%x : memref<{all}xf32>)
    boxes [#mpk_task.region<affine_map<(d0, d1) -> (d0 * 128 + d1 * 32)>, [32]>] {{
    %0 = mpk_tensor.full 2.0 : f32 : tensor<32xf32>
    mpk_task.yield %0 : tensor<32xf32>
  }}
  func.return
}}
"""


def lowered(n: int) -> tuple[ModuleOp, float]:
    """The module and how many seconds the pass took."""
    module = Parser(context(), TEXT.format(n=n, all=128 * n)).parse_module()
    module.verify()
    begun = process_time()
    LowerDependenciesPass().apply(Context(), module)
    return module, process_time() - begun


def events(module: ModuleOp) -> list[str]:
    """Tensors and edges as text."""
    tensors = [str(op) for op in module.walk() if isinstance(op, event.TensorOp)]
    edges = [f"{f.name} {f.op.waits} {f.op.signals}" for f in families_of(module)]
    return tensors + edges


def test_edges_of_many_tasks_are_those_of_few() -> None:
    few, _ = lowered(10)
    for n in (10**6, 10**9):
        many, seconds = lowered(n)
        assert seconds < 1
        assert len(str(many)) < len(str(few)) + 500
        found = events(many)
        assert f"mpk_event.tensor @e0 counters {n} arrivals [8]" in found
        assert f"mpk_event.tensor @end counters 1 arrivals [{5 * n}]" in found
        # Small programs leave out what others imply; of this many tasks every order is kept.
        assert len(found) == len(events(few)) + 1
