"""What an artifact says of its families beside its table."""

from __future__ import annotations

import pytest
from xdsl.parser import Parser
from xdsl.passes import PassPipeline
from xdsl.universe import Universe

from mpkir.backends.body import bodies_of
from mpkir.backends.origins import origins_in
from mpkir.pipeline import context

STEP = """
func.func @step() {
  %q = mpk_tensor.input "q" : tensor<1x1x6x32xf32>
  %k = mpk_tensor.input "k" : tensor<1x1x2x32xf32>
  %v = mpk_tensor.input "v" : tensor<1x1x2x32xf32>
  %kc = mpk_tensor.state "kc" : tensor<1x2x128x32xf32>
  %vc = mpk_tensor.state "vc" : tensor<1x2x128x32xf32>
  %p = mpk_tensor.position : tensor<1xi64>
  %y, %k1, %v1 = mpk_tensor.attention %q, %k, %v cache %kc, %vc at %p scale 0.35
    : (tensor<1x1x6x32xf32>, tensor<1x1x2x32xf32>, tensor<1x1x2x32xf32>, tensor<1x2x128x32xf32>,
       tensor<1x2x128x32xf32>, tensor<1xi64>)
    -> (tensor<1x1x6x32xf32>, tensor<1x2x128x32xf32>, tensor<1x2x128x32xf32>)
  mpk_tensor.output "y", %y : tensor<1x1x6x32xf32>
  mpk_tensor.store_state "kc", %k1 : tensor<1x2x128x32xf32>
  mpk_tensor.store_state "vc", %v1 : tensor<1x2x128x32xf32>
  func.return
}
"""


@pytest.mark.parametrize(
    ("joins", "begins"),
    [("false", (0, 0, 16, 16, 32, 32, 48, 48)), ("true", (16, 16, 32, 32, 48, 48))],
)
def test_where_chunks_of_attention_begin(joins: str, begins: tuple[int, ...]):
    """Two heads; blocks of 16 rows are dealt to four chunks, of which a join has the first."""
    ctx = context()
    module = Parser(ctx, STEP).parse_module()
    options = f"attention_chunk=16 attention_tasks=8 attention_joins={joins}"
    PassPipeline.parse_spec(
        Universe.get_multiverse().all_passes,
        f"mpk-split-reductions{{{options}}},mpk-partition-tiles{{workers=3}}",
    ).apply(ctx, module)
    found = origins_in(module, bodies_of(module))
    joined = "attention_join" if joins == "true" else "attention_merge"
    assert [origin.operator for origin in found] == ["attention_split", joined]
    assert [origin.begins for origin in found] == [begins, ()]
