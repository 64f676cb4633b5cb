"""A sum in parts, printed: each element goes to the rank that adds it up."""

from __future__ import annotations

import re

import pytest
from xdsl.context import Context
from xdsl.parser import Parser

from mpkir.backends.body import bodies_of
from mpkir.backends.cuda.emit import emit
from mpkir.machine import machine_named
from mpkir.passes.choose_handoffs import ChooseHandoffsPass
from mpkir.passes.partition_tiles import PartitionTilesPass
from mpkir.pipeline import context
from mpkir.runtime.build_cuda import build_cuda, find_nvcc

TEXT = """
builtin.module attributes {mpk.mesh = {tp = 4}} {
  func.func @step() {
    %x = mpk_tensor.input "x" : tensor<1x64xbf16>
    %w = mpk_tensor.weight "w" shard <dim 1 of 4> : tensor<96x64xbf16>
    %p = mpk_tensor.linear %x, [%w] : tensor<1x64xbf16>, [tensor<96x64xbf16>] to tensor<1x96xf32>
    %s = mpk_tensor.reduce_scatter %p dim 1 of OF : tensor<1x96xf32> to tensor<1xLxbf16>
    %y = mpk_tensor.all_gather %s dim 1 of OF : tensor<1xLxbf16> to tensor<1x96xbf16>
    mpk_tensor.output "y", %y : tensor<1x96xbf16>
    func.return
  }
}
"""


def source(of: int, flags: bool) -> str:
    text = TEXT.replace("OF", str(of)).replace("L", str(96 // of))
    module = Parser(context(), text).parse_module()
    module.verify()
    PartitionTilesPass(workers=3, max_rows=32).apply(Context(), module)
    if flags:
        ChooseHandoffsPass().apply(Context(), module)
    return emit(bodies_of(module), machine_named("h200"), 1)


@pytest.mark.parametrize("flags", [False, True])
@pytest.mark.parametrize("of", [2, 4])
def test_elements_go_to_the_rank_that_adds_them(of: int, flags: bool) -> None:
    size = 96 // of
    text = source(of, flags)
    verb, work = ("publish", ", w") if flags else ("store", "")
    stores = re.findall(rf"mpk::{verb}_part<{size}, {of}>\(.*\);", text)
    assert len(stores) == 1
    assert re.search(rf"{re.escape(work)}, \(.* \+ .*\) / {size}\);$", stores[0])
    assert f") % {size})" in text
    assert f"mpk::{verb}_all<{size}>(" in text


@pytest.mark.skipif(find_nvcc() is None, reason="needs nvcc")
@pytest.mark.parametrize("flags", [False, True])
def test_it_compiles(flags: bool) -> None:
    text = source(4, flags)
    assert b"mpk_peers" in build_cuda(text, "sm_90a")
    assert b"mpk_peers" in build_cuda("#define MPK_ALONE\n" + text, "sm_90a")
