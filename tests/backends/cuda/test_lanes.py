"""Cooperative skeletons as they are, each lane a fiber: shuffles, barriers and vectors on a CPU."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from mpkir.runtime.build_cuda import INCLUDE

HOST = Path(__file__).parent / "host" / "lanes"
SKELETONS = (
    "attention",
    "attention_merge",
    "attention_parts",
    "attention_products",
    "reduce",
    "rotary",
)


def test_attention_and_merge(tmp_path: Path) -> None:
    """Heads in groups, heads of any size, windows, several tokens, marks or none: as in fp64."""
    for path in HOST.iterdir():
        shutil.copy(path, tmp_path)
    for name in SKELETONS:
        shutil.copy(INCLUDE / "mpk" / f"{name}.cuh", tmp_path)
    program = tmp_path / "attention"
    # So little that compute warps ask, too.
    options = ["-std=c++20", "-O1", "-DMPK_CACHE_AHEAD=4096"]
    command = ["c++", *options, "-o", str(program), str(tmp_path / "attention.cpp")]
    subprocess.run(command, check=True)
    ran = subprocess.run([str(program)], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout
