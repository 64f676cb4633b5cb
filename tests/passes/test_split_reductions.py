"""Attention and argmax in parts give what they give whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp, UnitAttr
from xdsl.passes import ModulePass

from mpkir.backends.interpreter import task_level, tensor_level
from mpkir.dialects import task, tensor
from mpkir.machine import machine_named
from mpkir.passes.choose_handoffs import ChooseHandoffsPass
from mpkir.pipeline import lower
from mpkir.tools.random_run import Numbers
from mpkir.variant import Variant


def attention(capacity: int, extra: str = "", depth: int = 8) -> str:
    cache = f"tensor<1x2x{capacity}x8xf32>"
    text = f"""
func.func @step() {{
  %q = mpk_tensor.input "q" : tensor<1x1x6x8xf32>
  %k = mpk_tensor.input "k" : tensor<1x1x2x8xf32>
  %v = mpk_tensor.input "v" : tensor<1x1x2x8xf32>
  %kc = mpk_tensor.state "kc" : {cache}
  %vc = mpk_tensor.state "vc" : {cache}
  %p = mpk_tensor.position : tensor<1xi64>
  %y, %k1, %v1 = mpk_tensor.attention %q, %k, %v cache %kc, %vc at %p scale 0.35 {extra}
    : (tensor<1x1x6x8xf32>, tensor<1x1x2x8xf32>, tensor<1x1x2x8xf32>, {cache}, {cache},
       tensor<1xi64>) -> (tensor<1x1x6x8xf32>, {cache}, {cache})
  mpk_tensor.output "y", %y : tensor<1x1x6x8xf32>
  mpk_tensor.store_state "kc", %k1 : {cache}
  mpk_tensor.store_state "vc", %v1 : {cache}
  func.return
}}
"""
    return text.replace("x8xf32>", f"x{depth}xf32>")


@pytest.mark.parametrize(
    ("capacity", "block", "tasks", "expected"),
    [
        (64, 16, 99, (1, 4, 16)),
        (96, 40, 99, (1, 6, 16)),
        (64, 64, 99, (1, 4, 16)),
        (512, 32, 8, (4, 4, 32)),
        (1000, 32, 20, (4, 10, 25)),
        (134, 67, 99, (1, 2, 67)),
        (64, 16, 3, None),
        (67, 32, 99, None),
    ],
)
def test_blocks_are_dealt_evenly(run, assert_same_numbers, capacity, block, tasks, expected):
    """As many equal chunks as asked for, of large blocks; whole where those would be tiny."""
    text = attention(capacity)
    options = f"attention_chunk={block} attention_tasks={tasks}"
    split = run(text, f"mpk-split-reductions{{{options}}}")
    found = [
        tensor.shape_of(op.k_cache)[2:5]
        for op in split.walk()
        if isinstance(op, tensor.AttentionSplitOp)
    ]
    assert found == ([] if expected is None else [expected])
    assert_same_numbers(run(text, ""), split)


@pytest.mark.parametrize(
    ("capacity", "expected"),
    [(1024, (1, 8, 128)), (16384, (1, 128, 128)), (80, None), (2096, (1, 131, 16)), (67, None)],
)
def test_who_joins_has_a_large_block(run, capacity: int, expected: tuple[int, int, int] | None):
    """Of more than half of what may be neighbours, if the cache can be shared so at all."""
    options = "{attention_chunk=128 attention_tasks=262 attention_joins=true}"
    split = run(attention(capacity, depth=32), f"mpk-split-reductions{options}")
    found = [
        tensor.shape_of(op.k_cache)[2:5]
        for op in split.walk()
        if isinstance(op, tensor.AttentionJoinOp)
    ]
    assert found == ([] if expected is None else [expected])


@pytest.mark.parametrize("extra", ["", "window 5", "soft_cap 2.0"])
@pytest.mark.parametrize(("joins", "depth"), [("false", 8), ("true", 32)])
def test_attention_in_chunks_at_every_position(run, joins: str, depth: int, extra: str) -> None:
    """Chunks that nobody attends to, behind the position or before the window, add nothing."""
    text = attention(64, extra, depth)
    options = f"{{attention_chunk=16 attention_tasks=4 attention_joins={joins}}}"
    whole, split = run(text, ""), run(text, f"mpk-split-reductions{options}")
    tiled = run(text, f"mpk-split-reductions{options},mpk-partition-tiles{{workers=3}}")
    assert ("attention_join" if joins == "true" else "attention_merge") in str(tiled)
    rng = np.random.default_rng(0)
    inputs = {
        "q": rng.standard_normal((1, 1, 6, depth), np.float32),
        "k": rng.standard_normal((1, 1, 2, depth), np.float32),
        "v": rng.standard_normal((1, 1, 2, depth), np.float32),
    }
    for position in (0, 1, 15, 16, 17, 63):
        shape = (1, 2, 64, depth)
        caches = {name: rng.standard_normal(shape, np.float32) for name in ("kc", "vc")}
        before = {name: value.copy() for name, value in caches.items()}
        wanted = tensor_level.run_step(whole, {}, caches, inputs, position)["y"]
        for step, module in ((tensor_level.run_step, split), (task_level.run_step, tiled)):
            copies = {name: value.copy() for name, value in before.items()}
            found = step(module, {}, copies, inputs, position)["y"]
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
            for name, value in caches.items():
                np.testing.assert_array_equal(copies[name], value)


@pytest.mark.parametrize("vocabulary", [1, 3, 10, 63, 64, 65])
@pytest.mark.parametrize("chunks", [1, 4, 64])
def test_argmax_in_parts(run, vocabulary: int, chunks: int) -> None:
    """The lowest index of the largest, across the borders of parts; NaN-free ties included."""
    text = f"""
func.func @step() {{
  %x = mpk_tensor.input "x" : tensor<2x{vocabulary}xf32>
  %i = mpk_tensor.argmax %x : tensor<2x{vocabulary}xf32> to tensor<2xi64>
  mpk_tensor.output "i", %i : tensor<2xi64>
  func.return
}}
"""
    split = run(text, f"mpk-split-reductions{{argmax_chunks={chunks}}}")
    rng = np.random.default_rng(vocabulary)
    for high in (2, 100):
        x = rng.integers(0, high, (2, vocabulary)).astype(np.float32)
        found = tensor_level.run_step(split, {}, {}, {"x": x}, 0)["i"]
        np.testing.assert_array_equal(found, x.argmax(axis=1))


def argmax_of_linear(rows: int, features: int, result: str = "f32") -> str:
    """Of x [rows, 4] and features, whose rows are small whole numbers: many are equal."""
    y = f"tensor<{rows}x{features}x{result}>"
    return f"""
func.func @step() {{
  %x = mpk_tensor.input "x" : tensor<{rows}x4xf32>
  %w = mpk_tensor.weight "w" : tensor<{features}x4xf32>
  %y = mpk_tensor.linear %x, [%w] : tensor<{rows}x4xf32>, [tensor<{features}x4xf32>] to {y}
  %i = mpk_tensor.argmax %y : {y} to tensor<{rows}xi64>
  mpk_tensor.output "y", %y : {y}
  mpk_tensor.output "i", %i : tensor<{rows}xi64>
  func.return
}}
"""


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_argmax_of_what_a_linear_keeps(run, data: st.DataObject) -> None:
    """Before and after it is in tiles: the lowest of equals, NaNs above all, rows of any length."""
    rows, features = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 60))
    best, chunks = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 6))
    result = data.draw(st.sampled_from(["f32", "bf16"]))
    text = argmax_of_linear(rows, features, result)
    split = f"argmax_chunks={chunks} argmax_best_of={best}"
    split += f" argmax_at_once={data.draw(st.sampled_from([0, 20]))}"
    split = f"mpk-split-reductions{{{split}}}"
    workers, most = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 30))
    multiple = data.draw(st.sampled_from([1, 8]))
    tiles = f"mpk-partition-tiles{{workers={workers} max_rows={most} row_multiple={multiple}}}"
    kept, tiled = run(text, split), run(text, f"{split},{tiles}")
    assert ("best of" in str(kept)) == (features % best == 0)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x, w = (rng.integers(-2, 3, (n, 4)).astype(np.float32) for n in (rows, features))
    w[rng.random(features) < data.draw(st.sampled_from([0, 0.1]))] = np.nan
    for step, module in ((tensor_level.run_step, kept), (task_level.run_step, tiled)):
        found = step(module, {"w": w}, {}, {"x": x}, 0)
        np.testing.assert_array_equal(found["i"], found["y"].astype(np.float32).argmax(axis=1))
        np.testing.assert_array_equal(found["y"].astype(np.float32), x @ w.T)


GENERATES = """
func.func @step() {
  %p = mpk_tensor.position : tensor<1xi64>
  %tokens = mpk_tensor.state "tokens" initial -1 : tensor<2x9xi64>
  %table = mpk_tensor.weight "table" : tensor<192x64xbf16>
  %w = mpk_tensor.weight "w" : tensor<192x64xbf16>
  %x = mpk_tensor.embedding %table, %tokens at %p :
    (tensor<192x64xbf16>, tensor<2x9xi64>, tensor<1xi64>) -> tensor<2x1x64xbf16>
  %g = mpk_tensor.weight "g" : tensor<64xbf16>
  %n = mpk_tensor.rms_norm %x, %g eps 1.0e-5 :
    (tensor<2x1x64xbf16>, tensor<64xbf16>) -> tensor<2x1x64xbf16>
  %y = mpk_tensor.linear %n, [%w] :
    tensor<2x1x64xbf16>, [tensor<192x64xbf16>] to tensor<2x1x192xf32>
  %i = mpk_tensor.argmax %y : tensor<2x1x192xf32> to tensor<2x1xi64>
  %longer = mpk_tensor.sequence_append %tokens, %i at %p :
    (tensor<2x9xi64>, tensor<2x1xi64>, tensor<1xi64>) -> tensor<2x9xi64>
  mpk_tensor.store_state "tokens", %longer : tensor<2x9xi64>
  func.return
}
"""
"""A token of each of two sequences, from an argmax of a linear."""


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("at_once", [0, 99])
@pytest.mark.parametrize("flagged", [False, True])
def test_kept_candidates_on_workers(run, ranks: int, at_once: int, flagged: bool) -> None:
    """Scheduled and proven, workers in any order: the token of the whole row, on one rank or two
    that each keep candidates of their part. So it would be if their values carried flags.
    """
    before, module = run(GENERATES, ""), run(GENERATES, "")
    tiles = (("argmax_best_of", 8), ("argmax_chunks", 4), ("argmax_at_once", at_once))
    variant = Variant(
        machine=tuple((f"tiles.{name}", number) for name, number in tiles),
        options=(("mpk-shard", "exchange_us", 0.0005),) if ranks > 1 else (),
    )
    machine = variant.machine_of(machine_named("h100", workers=5))

    def flag(stage: ModulePass, module: ModuleOp) -> None:
        if flagged and isinstance(stage, ChooseHandoffsPass):
            flag_kept(module)

    lower(module, machine, variant=variant, tp=ranks, after_pass=flag)
    module.verify()
    assert "best of 8" in str(module)
    assert ("argmax_join" in str(module)) == (at_once == 0)
    assert ("exchange" in str(module)) == (ranks > 1)
    assert ("exchange flagged" in str(module)) == (ranks > 1 and flagged and at_once > 0)
    numbers = Numbers.random(before, seed=0)
    wanted = numbers.run(before, seed=0)["state 'tokens'"]
    for seed in range(3):
        found = numbers.run(module, seed)["state 'tokens'"]
        np.testing.assert_array_equal(found, wanted)


def flag_kept(module: ModuleOp) -> None:
    """Flag the values of the candidates that a linear keeps, but not where they are."""
    for op in module.walk():
        if isinstance(op, task.GridOp) and " best of " in str(op):
            _, value, _ = op.writes
            task.buffer_of(value).flagged = UnitAttr()
