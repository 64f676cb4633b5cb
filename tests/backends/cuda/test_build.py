"""The device library compiles for every architecture without spills; errors are for people."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mpkir.errors import MpkirError
from mpkir.runtime import build_cuda as building
from mpkir.runtime.build_cuda import INCLUDE, build_cuda, find_nvcc
from mpkir.runtime.cuda import CudaProgram
from mpkir.runtime.ranks import nvshmem_package
from mpkir.runtime.ranks.nvshmem_package import package_folder
from mpkir.runtime.table import Table, TableNames

HANDWRITTEN = (Path(__file__).parent / "handwritten.cu").read_text()
KERNEL = 'extern "C" __global__ void mpk_run() {}\n'
needs_nvcc = pytest.mark.skipif(find_nvcc() is None, reason="no nvcc")


@needs_nvcc
@pytest.mark.parametrize(
    ("number", "shared", "macros"),
    [
        ("80", 166912, ["ANY_DYNAMIC=false"]),
        ("90a", 232448, ["ANY_DYNAMIC=false"]),
        ("90a", 232448, ["ANY_DYNAMIC=true"]),
        ("90a", 232448, ["ANY_DYNAMIC=false", "REGISTERS_FROM=1"]),
    ],
)
def test_skeletons_do_not_spill(
    number: str, shared: int, macros: list[str], tmp_path: Path
) -> None:
    source = tmp_path / "kernel.cu"
    source.write_text(
        HANDWRITTEN.replace("#define SHARED_BYTES 232448", f"#define SHARED_BYTES {shared}")
    )
    command = [
        find_nvcc(),
        "-std=c++17",
        f"-gencode=arch=compute_{number},code=sm_{number}",
        f"-I{INCLUDE}",
        *(f"-D{macro}" for macro in macros),
        "-Xptxas",
        "-v",
        "-cubin",
        "-o",
        str(tmp_path / "kernel.cubin"),
        str(source),
    ]
    log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in log
    registers = int(re.search(r"Used (\d+) registers", log)[1])
    assert registers * 32 * 12 <= 65536


# nvshmem.cuh needs NVSHMEM's headers: test_ranks.py compiles it with them.
HEADERS = sorted(path.name for path in (INCLUDE / "mpk").iterdir() if path.stem != "nvshmem")


@needs_nvcc
@pytest.mark.parametrize("header", HEADERS)
def test_each_header_stands_alone(header: str, tmp_path: Path) -> None:
    source = tmp_path / "alone.cu"
    source.write_text(f"#include <mpk/{header}>\n")
    subprocess.run(
        [
            find_nvcc(),
            "-std=c++17",
            "-arch=sm_90a",
            f"-I{INCLUDE}",
            "-cubin",
            "-o",
            "/dev/null",
            str(source),
        ],
        check=True,
    )


def test_nvshmem_takes_nvcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MPKIR_CACHE", str(tmp_path))
    source = f"#define MPK_RANKS 2\n#define MPK_NVSHMEM\n{KERNEL}"
    monkeypatch.setattr(building, "package_folder", lambda: tmp_path)
    monkeypatch.setattr(building, "find_nvcc", lambda: None)
    with pytest.raises(MpkirError, match="is linked with NVSHMEM, which takes nvcc"):
        build_cuda(source, "sm_90a")
    monkeypatch.setattr(building, "package_folder", package_folder)
    monkeypatch.setattr(nvshmem_package, "find_spec", lambda name: None)
    with pytest.raises(MpkirError, match="NVSHMEM, which is not installed"):
        build_cuda(source, "sm_90a")


def test_nvrtc_compiles_the_same_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings")
    monkeypatch.setenv("MPKIR_CACHE", str(tmp_path))
    monkeypatch.setattr(building, "find_nvcc", lambda: None)
    assert build_cuda(HANDWRITTEN, "sm_90a").startswith(b"\x7fELF")


@pytest.mark.parametrize("compiler", ["nvcc", "NVRTC"])
def test_the_same_bytes_each_time(
    compiler: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An artifact's cubin, and its hash, do not say where and when it was compiled."""
    if compiler == "NVRTC":
        pytest.importorskip("cuda.bindings")
        monkeypatch.setattr(building, "find_nvcc", lambda: None)
    elif find_nvcc() is None:
        pytest.skip("no nvcc")
    source = "static __device__ int own;\n" + KERNEL.replace("{}", "{ own = threadIdx.x; }")
    made = []
    for name in ("one", "another"):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        for kind in ("MPKIR_CACHE", "TMPDIR"):
            monkeypatch.setenv(kind, str(folder))
        monkeypatch.setattr(tempfile, "tempdir", None)
        made.append(build_cuda(source, "sm_90a"))
        assert list(folder.glob("*.cubin"))
    assert made[0] == made[1]
    assert str(tmp_path).encode() not in made[0]


@needs_nvcc
def test_cached_by_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MPKIR_CACHE", str(tmp_path))
    first = build_cuda(KERNEL, "sm_90a")
    (only,) = tmp_path.iterdir()
    only.write_bytes(b"kept")
    assert build_cuda(KERNEL, "sm_90a") == b"kept" != first
    assert build_cuda(KERNEL + "\n", "sm_90a") != b"kept"
    assert build_cuda(KERNEL, "sm_80") != b"kept"


@needs_nvcc
def test_refused_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MPKIR_CACHE", str(tmp_path))
    with pytest.raises(
        MpkirError, match=r"nvcc does not compile the kernel for sm_90a: .*nonsense"
    ):
        build_cuda("#error nonsense\n", "sm_90a")
    assert not list(tmp_path.iterdir())


def test_unknown_architecture() -> None:
    with pytest.raises(MpkirError, match="'h100' is no GPU architecture"):
        build_cuda(KERNEL, "h100")


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "find_nvcc", lambda: None)
    monkeypatch.setitem(__import__("sys").modules, "cuda.bindings", None)
    with pytest.raises(MpkirError, match="there is no CUDA compiler on this machine; install"):
        build_cuda(KERNEL, "sm_90a")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu() -> None:
    empty = np.zeros((0, 8), np.int32)
    table = Table(
        empty,
        np.zeros(2, np.int32),
        np.zeros((0, 16), np.int32),
        np.zeros(0, np.int32),
        TableNames((), (), (), ()),
    )
    with pytest.raises(MpkirError, match="there is no GPU here that torch can use"):
        CudaProgram(b"", table, [])
