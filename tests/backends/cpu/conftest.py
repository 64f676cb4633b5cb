"""Runs a step on the CPU backend alone: partitioned, but with a plain table made by hand, so that
only the printed code and its runtime are under test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from mpkir.backends.body import bodies_of
from mpkir.backends.cpu.emit import emit
from mpkir.backends.table import buffer_ops_of, buffers_of
from mpkir.dialects import task
from mpkir.passes.partition_tiles import PartitionTilesPass
from mpkir.pipeline import context
from mpkir.runtime.cpu import CpuProgram, build
from mpkir.runtime.table import MAX_OPERANDS, Table, TableNames, build_table


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPKIR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def barrier_table(module: ModuleOp, workers: int) -> Table:
    """Families one after another, tasks dealt round-robin; a barrier after each family."""
    bodies = bodies_of(module)
    body_of = {name: body.index for body in bodies for name in body.families}
    ids = {op: k for k, op in enumerate(buffer_ops_of(module))}
    grids = [op for op in module.walk() if isinstance(op, task.GridOp)]
    lists: list[list[tuple[int, ...]]] = [[] for _ in range(workers)]
    families: list[tuple[int, ...]] = []
    for number, grid in enumerate(grids):
        operands = [ids[task.buffer_of(v)] for v in (*grid.reads, *grid.writes)]
        # Results behind a row's end are caches: bodies find them where they read them.
        operands = operands[:MAX_OPERANDS]
        families.append((body_of[grid.sym_name.data], grid.size, 0, 0, *operands))
        before = number - 1 if number else len(grids) - 1
        for index in range(grid.size):
            wait = (before, grids[before].size, 0 if number else 1)
            lists[index % workers].append((number, index, *wait, number, 1, 0))
    names = TableNames(
        tuple(op.sym.data for op in ids),
        tuple(f"body{body.index}" for body in bodies),
        tuple(grid.sym_name.data for grid in grids),
        tuple(f"done.{grid.sym_name.data}" for grid in grids),
    )
    return build_table(lists, families, [grid.size for grid in grids], names)


@dataclass
class Running:
    """A built step with its memory."""

    source: str
    program: CpuProgram
    buffers: dict[str, torch.Tensor]

    def __call__(self, position: int = 0, steps: int = 1, **inputs: torch.Tensor) -> Any:
        for name, value in inputs.items():
            assert self.buffers[name].dtype == value.dtype, name
            self.buffers[name].copy_(value)
        self.program.run(position, steps)
        return self.buffers


def partitioned(text: str, workers: int, **options: int) -> ModuleOp:
    ctx = context()
    module = Parser(ctx, text).parse_module()
    module.verify()
    PartitionTilesPass(workers=workers, **options).apply(ctx, module)
    module.verify()
    return module


@pytest.fixture
def start() -> Callable[..., Running]:
    """start(ops): the ops of a step, tensor level -> the running step."""

    def run(
        ops: str,
        workers: int = 2,
        tokens: int = 1,
        values: Mapping[str, Any] | None = None,
        **options: int,
    ) -> Running:
        module = partitioned(f"func.func @step() {{ {ops}\nfunc.return }}", workers, **options)
        source = emit(bodies_of(module), workers, tokens)
        buffers = {
            b.name: torch.full(b.shape, b.initial, dtype=getattr(torch, b.dtype))
            for b in buffers_of(module)
        }
        for name, value in (values or {}).items():
            buffers[name].copy_(value)
        program = CpuProgram(build(source), barrier_table(module, workers), list(buffers.values()))
        return Running(source, program, buffers)

    return run


@pytest.fixture
def partition() -> Callable[..., ModuleOp]:
    """partition(text, workers): a module at task level."""
    return partitioned


@pytest.fixture
def counting() -> str:
    """A step that appends a token: after k comes k + 1, by a table `t` that has its largest element
    there; 12 and 30 end the loop.
    """
    return """
  %s = mpk_tensor.state "tokens" initial -1 : tensor<33xi64>
  %p = mpk_tensor.position : tensor<1xi64>
  %t = mpk_tensor.weight "t" : tensor<40x40xf32>
  %x = mpk_tensor.embedding %t, %s at %p : (tensor<40x40xf32>, tensor<33xi64>, tensor<1xi64>) ->
    tensor<1x1x40xf32>
  %v, %i = mpk_tensor.argmax_partial chunk 8 %x : (tensor<1x1x40xf32>) -> (tensor<1x1x5xf32>,
    tensor<1x1x5xi64>)
  %m, %n = mpk_tensor.argmax_merge %v, %i : tensor<1x1x5xf32>, tensor<1x1x5xi64> to tensor<1x1xi64>
    append %s at %p : tensor<33xi64>, tensor<1xi64> to tensor<33xi64> stop [12, 30]
  mpk_tensor.store_state "tokens", %n : tensor<33xi64>"""


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a compiler, and with nothing built before."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("MPKIR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
