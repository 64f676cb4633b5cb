"""Ranks that no address leads to: what is stored for them goes through NVSHMEM, the rest does not.

peers.cuh and nvshmem.cuh run as they are, a thread of the host for a thread of a GPU, on a network
that keeps NVSHMEM's promises and no others (host/far/nvshmem.h).
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mpkir.runtime.build_cuda import INCLUDE

HOST = Path(__file__).parent / "host" / "far"
HEADERS = ("abi", "nvshmem", "peers")
QUIET = "  if (mpk_far.ranks != 0) nvshmem_quiet();\n"
SEE = "  see_far(counter);\n"


STEPS, PUTS = 100, 39
"""Of ranks.cpp: steps, and what a rank puts for each far rank in one."""


def _built(folder: Path, ranks: int, without: str = "") -> Path:
    """The ranks' program; `without` is left out of peers.cuh."""
    for path in HOST.iterdir():
        shutil.copy(path, folder)
    for header in HEADERS:
        text = (INCLUDE / "mpk" / f"{header}.cuh").read_text()
        if header == "peers":
            assert without in text
            text = text.replace(without, "") if without else text
        (folder / f"{header}.cuh").write_text(text)
    program = folder / "ranks"
    macros = [f"-DMPK_RANKS={ranks}", "-DMPK_NVSHMEM"]
    command = [
        "c++",
        "-std=c++17",
        "-O1",
        "-w",
        "-pthread",
        *macros,
        f"-I{folder}",
        "-o",
        str(program),
    ]
    subprocess.run([*command, str(folder / "ranks.cpp")], check=True)
    return program


def _run(program: Path, hosts: int) -> str:
    """What the ranks print, or what they find wrong."""
    ran = subprocess.run([str(program), str(hosts)], capture_output=True, text=True, timeout=120)
    assert (ran.returncode == 0) == ran.stdout.strip().isdecimal(), ran
    return ran.stdout.strip()


@pytest.mark.parametrize(("ranks", "hosts"), [(4, 2), (2, 1)])
def test_all_that_is_sent_arrives_before_its_signal(ranks: int, hosts: int, tmp_path: Path) -> None:
    assert _run(_built(tmp_path, ranks), hosts) == str(STEPS * PUTS * (ranks - ranks // hosts))


@pytest.mark.parametrize("without", [QUIET, SEE])
def test_without_quiet_or_the_test_it_does_not(without: str, tmp_path: Path) -> None:
    # Threads that hardly run beside each other may keep the order by chance.
    program = _built(tmp_path, 4, without)
    assert any("came after the signal" in _run(program, 2) for _ in range(20))
