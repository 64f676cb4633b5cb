"""Dynamic tasks in the interpreter: any free worker, any order that their events allow."""

from __future__ import annotations

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser
from xdsl.passes import PassPipeline
from xdsl.universe import Universe

from mpkir.backends.interpreter.event_level import Order, run_steps
from mpkir.dialects import task
from mpkir.errors import MpkirError
from mpkir.pipeline import context

STEP = """
func.func @step() {
  %x = mpk_tensor.state "x" : tensor<1x24xf32>
  %a = mpk_tensor.weight "a" : tensor<24x24xf32>
  %b = mpk_tensor.weight "b" : tensor<24x24xf32>
  %p = mpk_tensor.linear %x, [%a] : tensor<1x24xf32>, [tensor<24x24xf32>] to tensor<1x24xf32>
  %q = mpk_tensor.linear %p, [%b] : tensor<1x24xf32>, [tensor<24x24xf32>] to tensor<1x24xf32>
  %y = mpk_tensor.elementwise %q, %p {
  ^bb0(%0 : f32, %1 : f32):
    %2 = math.tanh %0 : f32
    %3 = arith.addf %2, %1 : f32
    mpk_tensor.yield %3 : f32
  } : (tensor<1x24xf32>, tensor<1x24xf32>) -> tensor<1x24xf32>
  mpk_tensor.store_state "x", %y : tensor<1x24xf32>
  func.return
}"""

PIPELINE = (
    "mpk-partition-tiles{{workers=3 min_elements=4}},mpk-lower-dependencies,mpk-fuse-events,"
    "mpk-normalize-events,mpk-linearize-tasks,mpk-schedule-tasks{{workers=3 policy={policy}}}"
)


def scheduled(policy: str) -> ModuleOp:
    ctx = context()
    module = Parser(ctx, STEP).parse_module()
    passes = Universe.get_multiverse().all_passes
    PassPipeline.parse_spec(passes, PIPELINE.format(policy=policy)).apply(ctx, module)
    module.verify()
    return module


def play(module: ModuleOp, seed: int, order: Order) -> np.ndarray:
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((24, 24), np.float32) / 5 for name in "ab"}
    states = {"x": rng.standard_normal((1, 24), np.float32)}
    assert run_steps(module, weights, states, {}, 0, 4, seed, order=order).steps_done == 4
    return states["x"]


@pytest.mark.parametrize("order", ["random", "eager"])
def test_every_order_gives_the_same(order: Order) -> None:
    wanted = play(scheduled("round-robin"), 0, "random")
    module = scheduled("dynamic")
    assert sum(grid.dynamic is not None for grid in module.walk() if isinstance(grid, task.GridOp))
    for seed in range(6):
        np.testing.assert_array_equal(play(module, seed, order), wanted)


def test_nothing_orders_a_dynamic_task_but_its_wait() -> None:
    """The last family waits for what the one before waits for."""
    module = scheduled("dynamic")
    grids = [op for op in module.walk() if isinstance(op, task.GridOp) and op.dynamic is not None]
    grids[-1].waits = grids[0].waits
    with pytest.raises(MpkirError, match="race on buffer"):
        play(module, 0, "random")
