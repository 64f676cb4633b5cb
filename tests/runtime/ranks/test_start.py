"""A command on all ranks: their environment, what is shown of them, and that none stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
import torch

from mpkir.runtime.artifact import Artifact
from mpkir.runtime.ranks import start
from mpkir.runtime.ranks.start import run_ranks


def _python(text: str) -> list[str]:
    return [sys.executable, "-S", "-c", text]


def test_each_rank_has_torchruns_environment(tmp_path: Path):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    text = f"""
import os
open(os.path.join({str(tmp_path)!r}, os.environ["RANK"]), "w").write(
    " ".join(os.environ[name] for name in {names!r})
)
assert int(os.environ["MASTER_PORT"])
"""
    assert run_ranks(_python(text), 3) == 0
    told = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert told == {str(rank): f"{rank} {rank} 3 3 127.0.0.1" for rank in range(3)}


def test_a_rank_that_fails_ends_the_others(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.setattr(start, "GRACE_S", 0.3)
    text = f"""
import os, sys, time
rank = int(os.environ["RANK"])
open(os.path.join({str(tmp_path)!r}, str(rank)), "w").write(str(os.getpid()))
print("of rank", rank, flush=True)
if rank == 1:
    sys.exit("no room")
time.sleep(60)
"""
    begun = monotonic()
    assert run_ranks(_python(text), 3) == 1
    assert monotonic() - begun < 10
    out, err = capfd.readouterr()
    assert out == "of rank 0\n"
    assert err == "rank 1 ended with code 1: of rank 1\nno room\n"
    for file in tmp_path.iterdir():
        assert not Path("/proc", file.read_text()).exists()


def test_a_rank_that_is_killed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.setattr(start, "GRACE_S", 0.3)
    text = """
import os, time
if os.environ["RANK"] == "1":
    os.kill(os.getpid(), 9)
time.sleep(60)
"""
    assert run_ranks(_python(text), 2) == 128 + signal.SIGKILL
    assert capfd.readouterr().err == "rank 1 was ended by signal 9\n"


def test_mpk_starts_the_ranks_that_a_program_has(
    two_ranks: Artifact, weight: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("RANK", raising=False)
    x = torch.arange(32).float().view(1, 32)
    np.save(tmp_path / "x.npy", x.numpy())
    command = [sys.executable, "-m", "mpkir.tools.mpk", "run", str(two_ranks.path)]
    options = ["-i", f"x={tmp_path / 'x.npy'}", "-o", str(tmp_path), "--steps", "3"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("3 of 3 steps") == 1  # rank 0's
    z, half = (np.load(tmp_path / f"{name}.npy") for name in ("z", "half"))
    wanted = x @ (weight[:32] + weight[32:]).T
    np.testing.assert_allclose(z[0], wanted.numpy(), rtol=1e-5)
    np.testing.assert_array_equal(half, np.concatenate([x, x], 1))


def test_a_process_alone_is_rank_0(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RANK", raising=False)
    assert (start.is_rank(), start.rank_here()) == (False, 0)
    monkeypatch.setattr(os, "environ", {"RANK": "2", "WORLD_SIZE": "4"})
    assert (start.is_rank(), start.rank_here()) == (True, 2)
