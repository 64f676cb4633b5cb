"""A program of two ranks: what it gives, what is refused before it runs, how it ends if a rank
does."""

from __future__ import annotations

import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import torch

from mpkir import load
from mpkir.errors import MpkirError
from mpkir.runtime import cpu
from mpkir.runtime import program as program_module
from mpkir.runtime.artifact import Artifact
from mpkir.runtime.manifest import MANIFEST, Manifest
from mpkir.runtime.program import Program
from mpkir.runtime.ranks.group import Group

STEPS = 50


def test_each_rank_computes_with_its_part_and_has_all_of_the_result(
    run_ranks: Any, two_ranks: Artifact, weight: torch.Tensor
):
    def rank(number: int) -> list[Any]:
        program = load(two_ranks.path)
        part = weight[32 * number : 32 * (number + 1)]
        assert torch.equal(program.buffer("w"), part)
        results: list[Any] = []
        for seed in range(STEPS):
            z, half = program(_input(seed))
            results.append((z, half))
        assert program.run(0, 200) == 200
        return results

    one, other = run_ranks(rank, 2)
    for seed, (mine, theirs) in enumerate(zip(one, other, strict=True)):
        x = _input(seed)
        for a, b in zip(mine, theirs, strict=True):
            assert torch.equal(a, b)  # the same bits on every rank
        wanted = x @ (weight[:32] + weight[32:]).T
        torch.testing.assert_close(mine[0][0], wanted, rtol=1e-5, atol=1e-4)
        assert torch.equal(mine[1], torch.cat([x, x], 1))


def test_weights_are_handed_over_whole(run_ranks: Any, two_ranks: Artifact):
    def rank(number: int) -> torch.Tensor:
        program = load(two_ranks.path, weights={"w": torch.ones(64, 32)})
        return program(_input(0))[0]

    for z in run_ranks(rank, 2):
        torch.testing.assert_close(z[0], _input(0).sum().expand(1, 32) * 2)


def test_a_rank_that_dies_ends_the_launch_of_the_others(run_ranks: Any, two_ranks: Artifact):
    dies = 1

    def rank(number: int) -> Any:
        program = load(two_ranks.path)
        program.run(0, 10)
        if number == dies:
            os.kill(os.getpid(), signal.SIGKILL)
        begun = monotonic()
        with pytest.raises(MpkirError) as caught:
            program.run(10, 10)
        seconds = monotonic() - begun
        with pytest.raises(MpkirError, match="the ranks have parted"):
            program.run(10, 10)
        return str(caught.value), seconds

    before = set(os.listdir("/dev/shm"))
    answers = run_ranks(rank, 2)
    assert answers[dies] == signal.SIGKILL
    text, seconds = answers[1 - dies]
    assert re.search(rf"^rank {dies} \(process \d+ on .*\) has died", text)
    assert seconds < 5
    assert set(os.listdir("/dev/shm")) <= before


def test_a_rank_that_does_not_launch_is_named(run_ranks: Any, two_ranks: Artifact, tmp_path: Path):
    told = tmp_path / "told"

    def rank(number: int) -> Any:
        program = load(two_ranks.path)
        program.run(0, 10)
        assert program.group is not None
        if number == 1:
            # It is there all the while, and does nothing.
            limit = monotonic() + 30
            while not told.exists() and monotonic() < limit:
                sleep(0.05)
            return None
        begun = monotonic()
        with pytest.raises(MpkirError) as caught:
            program.run(10, 10)
        seconds = monotonic() - begun
        told.touch()
        return str(caught.value), seconds

    (text, seconds), _ = run_ranks(rank, 2)
    assert re.search(r"^rank 1 \(.*\) did not begin launch 2, in which the others wait", text)
    assert seconds < 10


def test_a_rank_that_loads_for_long_is_not_late_for_a_launch(
    run_ranks: Any, two_ranks: Artifact, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cpu, "LAUNCH_S", 2.0)
    launcher = program_module._launcher

    def rank(number: int) -> int:
        def slow(*args: Any) -> Any:
            sleep(3 * number)
            return launcher(*args)

        monkeypatch.setattr(program_module, "_launcher", slow)
        return load(two_ranks.path).run(0, 3)

    assert run_ranks(rank, 2) == [3, 3]


def test_ranks_with_different_programs_are_refused(
    run_ranks: Any, two_ranks: Artifact, tmp_path: Path
):
    other = tmp_path / "other"
    shutil.copytree(two_ranks.path, other)
    manifest = Manifest.from_json((other / MANIFEST).read_text(), "")
    (other / MANIFEST).write_text(replace(manifest, info={"policy": "other"}).to_json())
    errors = run_ranks(lambda number: load(other if number else two_ranks.path), 2)
    assert [error.what for error in errors] == ["ranks 0 and 1 have different programs"] * 2


def test_ranks_with_different_weights_are_refused(run_ranks: Any, two_ranks: Artifact):
    def rank(number: int) -> None:
        # The last row is what rank 1 reads, and rank 0 does not.
        weight = torch.ones(64, 32)
        weight[-1] += number
        Program(two_ranks, {"w": weight})

    errors = run_ranks(rank, 2)
    assert [error.what for error in errors] == ["ranks 0 and 1 have different weights"] * 2


def test_another_number_of_ranks_is_refused(run_ranks: Any, two_ranks: Artifact):
    for error in run_ranks(lambda number: load(two_ranks.path), 3):
        assert error.what == "2 ranks run the program, and 3 processes were started"

    def rank(number: int) -> None:
        load(two_ranks.path, group=Group.join(3))

    for error in run_ranks(rank, 3):
        assert error.what == "3 ranks run a program that is for 2"


def test_what_one_rank_cannot_load_ends_all(run_ranks: Any, two_ranks: Artifact, tmp_path: Path):
    other = tmp_path / "other"
    shutil.copytree(two_ranks.path, other)
    (other / "kernel.so").unlink()
    first, second = run_ranks(lambda number: load(other if number else two_ranks.path), 2)
    assert re.search(r"^rank 1 \(.*\) does not go on: .*kernel.so: the file is missing", str(first))
    assert second.what == "the file is missing"


def test_a_program_of_ranks_is_not_run_alone(two_ranks: Artifact, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(MpkirError, match="2 ranks run the program, and this process is alone"):
        load(two_ranks.path)


def _input(seed: int) -> torch.Tensor:
    return torch.randn(1, 32, generator=torch.Generator().manual_seed(seed))
