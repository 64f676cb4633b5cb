"""Skeletons as they are, each lane a fiber: shuffles, barriers and vectors on a CPU."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from mpkir.runtime.build_cuda import INCLUDE

HOST = Path(__file__).parent / "host" / "lanes"
ATTENTION = (
    "attention",
    "attention_merge",
    "attention_parts",
    "attention_products",
    "attention_prologue",
    "attention_rows",
    "attention_shape",
    "attention_stages",
    "attention_step",
    "attention_sums",
    "brief",
    "norm_scales",
    "reduce",
    "rotary",
)
PRODUCTS = (
    "best",
    "brief",
    "candidate",
    "linear_direct",
    "norm_scales",
    "packed_columns",
    "packed_fragments",
    "packed_linear",
    "packed_rows",
    "packed_shape",
    "packed_sums",
    "reduce",
)


def test_attention_and_merge(tmp_path: Path) -> None:
    """Heads in groups, heads of any size, windows, several tokens, marks or none: as in fp64."""
    # So little that compute warps ask, too.
    _run("attention", ATTENTION, tmp_path, "-DMPK_CACHE_AHEAD=4096")


def test_products_of_packed_weights(tmp_path: Path) -> None:
    """Tokens, rows of x in passes, norms, two weights, x that comes late: as in fp64; the best of
    neighbours: the first of those that are stored."""
    _run("products", PRODUCTS, tmp_path)


def test_products_of_weights_as_they_lie(tmp_path: Path) -> None:
    """From the ring and without: as in fp64; the best of neighbours: the first of those stored."""
    _run("linears", ("best", "brief", "candidate", "linear", "linear_direct", "reduce"), tmp_path)


def test_candidates_of_an_argmax(tmp_path: Path) -> None:
    """Joined and merged: rows, chunks of any size, tasks of which the last has fewer."""
    _run("argmax", ("argmax", "brief", "candidate", "reduce"), tmp_path)


def test_brief_elements(tmp_path: Path) -> None:
    """All bf16 numbers and all words, with either mark: the same number, none where it is none."""
    _run("briefs", ("brief",), tmp_path)


@pytest.mark.parametrize("options", [(), ("-DMPK_TRACE",)], ids=["plain", "traced"])
def test_the_loader_of_the_ring(options: Sequence[str], tmp_path: Path) -> None:
    """Each stage once, in its slot, when it may be and no later; L2 is asked for those that come
    next, and for no others."""
    instructions = re.compile(r"#if __CUDA_ARCH__ >= 900\n    if \(lane == 0\).*?#endif\n", re.S)
    copying = "    if (lane == 0) copy(target, sources, PARTS, bytes, full);\n"
    text, count = instructions.subn(copying, (INCLUDE / "mpk" / "ring.cuh").read_text())
    assert count == 1
    (tmp_path / "ring.cuh").write_text(text)
    _run("loader", (), tmp_path, *options)


def _run(name: str, skeletons: Sequence[str], folder: Path, *options: str) -> None:
    for path in HOST.iterdir():
        shutil.copy(path, folder)
    for skeleton in skeletons:
        shutil.copy(INCLUDE / "mpk" / f"{skeleton}.cuh", folder)
    program = folder / name
    source = folder / f"{name}.cpp"
    command = ["c++", "-std=c++20", "-O1", *options, "-o", str(program), str(source)]
    subprocess.run(command, check=True)
    ran = subprocess.run([str(program)], capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stdout
