"""A program with one kernel for each body compiles with both compilers, two kernels fit on an SM,
and its artifact says in which order they run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from xdsl.parser import Parser

from mpkir.compiler import compile_module
from mpkir.machine import machine_named
from mpkir.pipeline import context
from mpkir.runtime import build_cuda as building
from mpkir.runtime.artifact import Artifact, load_artifact
from mpkir.runtime.build_cuda import INCLUDE, build_cuda, find_nvcc
from mpkir.runtime.table import FamilyField, TaskField

STEP = Path(__file__).parents[3] / "lit_tests" / "pipelines" / "decode-h100.mlir"
MACHINE = machine_named("h100{launch=per-operator}", workers=4)
SM_REGISTERS = 65536
pytestmark = pytest.mark.skipif(find_nvcc() is None, reason="no nvcc")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    module = Parser(context(), STEP.read_text()).parse_module()
    path = tmp_path_factory.mktemp("per-operator") / "step"
    compile_module(module, MACHINE, output=path)
    return load_artifact(path)


def test_kernels_run_in_the_order_of_families(artifact: Artifact) -> None:
    manifest, table = artifact.manifest, artifact.table
    assert manifest.target.launch == "per-operator"
    assert manifest.events == ()
    assert manifest.families == (
        *("embedding", "linear", "linear.1", "linear.2", "argmax_partial", "argmax_merge"),
    )
    tasks = table.tasks
    assert (tasks[:, TaskField.WAIT_EVENT] == -1).all()
    assert (tasks[:, TaskField.SIGNAL_EVENT] == -1).all()
    for worker, (begin, end) in enumerate(zip(table.workers, table.workers[1:], strict=False)):
        expected = [
            (family, index)
            for family, row in enumerate(table.families)
            for index in range(worker, row[FamilyField.GRID_SIZE], table.worker_count)
        ]
        assert [(row[0], row[1]) for row in tasks[begin:end].tolist()] == expected


def test_two_kernels_fit_on_an_sm(artifact: Artifact, tmp_path: Path) -> None:
    command = [
        *(find_nvcc(), "-std=c++17", "-gencode=arch=compute_90a,code=sm_90a", f"-I{INCLUDE}"),
        *("-Xptxas", "-v", "-cubin", "-o", str(tmp_path / "kernel.cubin")),
        str(artifact.source_path),
    ]
    log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert set(re.findall(r"\d+ bytes spill \w+", log)) <= {
        "0 bytes spill stores",
        "0 bytes spill loads",
    }
    used = [int(registers) for registers in re.findall(r"Used (\d+) registers", log)]
    assert len(used) == len(artifact.manifest.bodies)
    assert 2 * MACHINE.block_memory + 2 * 1024 <= MACHINE.shared_memory + 1024
    # 11 warps of those that stream are dealt out as 12; 8 of the others.
    source = artifact.source_path.read_text()
    for kernel, registers in re.findall(r"'mpk_run_(\d+)'.*?Used (\d+) registers", log, re.DOTALL):
        streams = re.search(rf"using kernel_{kernel} = mpk::\w*Linear<", source)
        assert 2 * (12 if streams else 8) * 32 * -(-int(registers) // 8) * 8 <= SM_REGISTERS


def test_nvrtc_compiles_it_too(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("cuda.bindings")
    monkeypatch.setenv("MPKIR_CACHE", str(tmp_path))
    monkeypatch.setattr(building, "find_nvcc", lambda: None)
    binary = build_cuda(artifact.source_path.read_text(), "sm_90a")
    assert b"mpk_run_0" in binary
    assert b"mpk_operators" in binary


def test_an_older_architecture_runs_them_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPKIR_CACHE", str(tmp_path))
    machine = machine_named("a100{launch=per-operator}")
    module = Parser(context(), STEP.read_text()).parse_module()
    assert compile_module(module, machine, output=tmp_path / "step").manifest.target.arch == "sm_80"
