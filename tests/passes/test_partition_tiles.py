"""Tiles cover every result once, fill the workers, and in-place updates never lose a value."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpkir.analysis.families import families_of
from mpkir.dialects import task
from mpkir.passes.tiling.limits import SAVES, Limits, features_per_task


@given(
    features=st.integers(1, 200_000),
    row_bytes=st.sampled_from([16, 576, 1152, 2048, 8192]),
    weights=st.integers(1, 2),
    workers=st.sampled_from([1, 2, 5, 108, 132]),
    max_rows=st.sampled_from([1, 8, 32, 128]),
)
def test_rows_of_a_task(features, row_bytes, weights, workers, max_rows) -> None:
    """Within the limit, and no worker gets more than one task's rows beyond its even share."""
    limits = Limits(workers, max_rows, 8192, 2048)
    size = features_per_task(features, row_bytes, weights, limits)
    assert 1 <= size <= max(1, max_rows // weights)
    busiest = ceil(ceil(features / size) / workers) * size
    assert busiest < features / workers + size + 1


def busiest_bytes(size: int, features: int, row_bytes: int, weights: int, limits: Limits) -> int:
    """What the worker with most tasks of that size reads, and its tasks' overhead."""
    tasks = ceil(ceil(features / size) / limits.workers)
    return tasks * (size * weights * row_bytes + limits.row_overhead_bytes)


@given(
    groups=st.integers(1, 20_000),
    depth=st.sampled_from([576, 2048, 5120]),
    weights=st.integers(1, 2),
    workers=st.sampled_from([1, 5, 108, 132]),
    max_rows=st.sampled_from([32, 64, 80]),
)
def test_no_other_rows_save_much(groups, depth, weights, workers, max_rows) -> None:
    """No multiple of 8 has clearly less for the busiest worker, and no power of two less at all."""
    limits = Limits(workers, max_rows, 8192, 2048, row_multiple=8)
    features, row_bytes = 8 * groups, 2 * depth
    size = features_per_task(features, row_bytes, weights, limits)
    assert size % 8 == 0
    chosen = busiest_bytes(size, features, row_bytes, weights, limits)
    for other in range(8, min(features, max_rows // weights) + 1, 8):
        cost = busiest_bytes(other, features, row_bytes, weights, limits)
        assert chosen * (1 - SAVES) <= cost
        assert other & (other - 1) or chosen <= cost


@pytest.mark.parametrize(
    ("features", "depth", "weights", "max_rows", "rows"),
    [
        (12288, 4096, 2, 64, 32),  # 3 tasks for a worker: 40 and 48 are balanced no better
        (6144, 2048, 2, 64, 16),  # 24 saves a task's overhead, too little
        (151936, 4096, 1, 80, 64),  # and so does 72
        (25600, 5120, 2, 64, 8),  # nothing larger up to 32 is balanced as well
        (25600, 5120, 2, 80, 40),  # 5 tasks for a worker, not 25
        (15360, 5120, 1, 64, 40),  # 3 of 40 rows, 120, where 2 of 64 are 128
    ],
)
def test_odd_shapes_get_even_tasks(features, depth, weights, max_rows, rows) -> None:
    limits = Limits(132, max_rows, 8192, 2048, row_multiple=8)
    assert features_per_task(features, 2 * depth, weights, limits) == rows


ONE_OF_EACH = """
func.func @step() {
  %x = mpk_tensor.input "x" : tensor<3x40xf32>
  %m = mpk_tensor.input "m" : tensor<4x40x6xf32>
  %g = mpk_tensor.weight "g" : tensor<40xf32>
  %w = mpk_tensor.weight "w" : tensor<37x40xf32>
  %n = mpk_tensor.rms_norm %x, %g eps 1.0e-5
    : (tensor<3x40xf32>, tensor<40xf32>) -> tensor<3x40xf32>
  %y = mpk_tensor.linear %n, [%w] : tensor<3x40xf32>, [tensor<37x40xf32>] to tensor<3x37xf32>
  %s = mpk_tensor.softmax %y : tensor<3x37xf32> to tensor<3x37xf32>
  %r = mpk_tensor.reduce sum %s dims [0] : tensor<3x37xf32> to tensor<1x37xf32>
  %p = mpk_tensor.matmul %x, %m : (tensor<3x40xf32>, tensor<4x40x6xf32>) -> tensor<4x3x6xf32>
  %t = mpk_tensor.transpose %p [2, 0, 1] : tensor<4x3x6xf32> to tensor<6x4x3xf32>
  mpk_tensor.output "r", %r : tensor<1x37xf32>
  mpk_tensor.output "t", %t : tensor<6x4x3xf32>
  func.return
}
"""


@pytest.mark.parametrize("workers", [1, 2, 5, 132])
def test_tiles_cover_each_result_once(run, assert_same_numbers, workers: int) -> None:
    tiled = run(ONE_OF_EACH, f"mpk-partition-tiles{{workers={workers} min_elements=2}}")
    for family in families_of(tiled):
        for access in family.accesses:
            if not access.is_write:
                continue
            count = np.zeros(access.shape, int)
            for index in range(family.size):
                offsets = access.box.offsets_at(family.op.coordinates(index))
                count[
                    tuple(slice(o, o + n) for o, n in zip(offsets, access.box.shape, strict=True))
                ] += 1
            assert (count == 1).all(), family.name
    assert_same_numbers(run(ONE_OF_EACH, ""), tiled)


def grids(module) -> list[str]:
    return [op.sym_name.data for op in module.walk() if isinstance(op, task.GridOp)]


def cache_step(body: str) -> str:
    return (
        """
func.func @step() {
  %p = mpk_tensor.position : tensor<1xi64>
  %n = mpk_tensor.input "n" : tensor<1x2x1x4xf32>
  %o = mpk_tensor.input "o" : tensor<1x2x1x4xf32>
  %c = mpk_tensor.state "c" : tensor<1x2x8x4xf32>
  %d = mpk_tensor.cache_append %c, %n at %p
    : (tensor<1x2x8x4xf32>, tensor<1x2x1x4xf32>, tensor<1xi64>) -> tensor<1x2x8x4xf32>
"""
        + body
        + "  func.return\n}\n"
    )


APPEND_AGAIN = (
    "  %e = mpk_tensor.cache_append %d, %o at %p : (tensor<1x2x8x4xf32>, tensor<1x2x1x4xf32>, "
    "tensor<1xi64>) -> tensor<1x2x8x4xf32>\n"
)


def store(state: str, value: str) -> str:
    return f'  mpk_tensor.store_state "{state}", %{value} : tensor<1x2x8x4xf32>\n'


def output(name: str, value: str) -> str:
    return f'  mpk_tensor.output "{name}", %{value} : tensor<1x2x8x4xf32>\n'


@pytest.mark.parametrize(
    ("body", "copies"),
    [
        pytest.param(store("c", "d"), [], id="in place"),
        pytest.param(APPEND_AGAIN + store("c", "e"), [], id="twice in place"),
        pytest.param(output("d", "d"), ["copy.c", "store.d"], id="never stored"),
        pytest.param(output("old", "c") + store("c", "d"), ["keep.c", "store.old"], id="old value"),
        pytest.param(store("c", "d") + output("d", "d"), ["store.d"], id="new value"),
        pytest.param(
            store("c", "d") + APPEND_AGAIN + output("e", "e"), ["copy.c", "store.e"], id="goes on"
        ),
        pytest.param(
            APPEND_AGAIN + store("c", "e") + output("d", "d"), ["keep.c", "store.d"], id="between"
        ),
        pytest.param(store("f", "d") + store("c", "c"), ["copy.c", "store.f"], id="elsewhere"),
        pytest.param(
            output("d", "d") + output("d2", "d") + store("c", "d"),
            ["store.d", "store.d2"],
            id="two outputs",
        ),
    ],
)
def test_updates_in_place(run, assert_same_numbers, body: str, copies: list[str]) -> None:
    """A copy where an older value of the buffer is wanted, and nowhere else."""
    text = cache_step(body)
    if '"f"' in text:
        text = text.replace(
            "  %d =", '  %f = mpk_tensor.state "f" : tensor<1x2x8x4xf32>\n  %d =', 1
        )
    tiled = run(text, "mpk-partition-tiles{workers=3}")
    found = [name for name in grids(tiled) if not name.startswith("cache_append")]
    assert sorted(found) == sorted(copies)
    assert_same_numbers(run(text, ""), tiled)


def test_an_operator_may_have_the_name_of_an_input(run, assert_same_numbers) -> None:
    """Buffers are found by name: a module `norm` and an argument `norm` are two things."""
    text = """
func.func @step() {
  %0 = mpk_tensor.input "norm" : tensor<1x8xf32>
  %1 = mpk_tensor.softmax %0 : tensor<1x8xf32> to tensor<1x8xf32> loc("norm")
  %2 = mpk_tensor.softmax %1 : tensor<1x8xf32> to tensor<1x8xf32> loc("norm")
  mpk_tensor.output "norm.1", %2 : tensor<1x8xf32>
  func.return
}
"""
    tiled = run(text, "mpk-partition-tiles")
    names = [op.sym.data for op in tiled.walk() if isinstance(op, task.BufferOp)]
    assert len(set(names)) == len(names) == 3
    assert_same_numbers(run(text, ""), tiled)


def test_tasks_of_many_rows_are_smaller() -> None:
    limits = Limits(132, 64, 8192, 2048, row_multiple=8, max_rows_of_many=32)
    assert [limits.of_rows(rows).max_rows for rows in (1, 7, 8, 16)] == [64, 64, 32, 32]
    assert features_per_task(151936, 2048, 1, limits.of_rows(1)) == 64
    assert features_per_task(151936, 2048, 1, limits.of_rows(8)) == 32
    assert Limits(132, 64, 8192, 2048).of_rows(16).max_rows == 64
