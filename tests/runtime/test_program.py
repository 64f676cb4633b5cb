"""Loaded programs: called like a module, run by steps, refused with other weights or arguments."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils import _pytree as pytree

import mpkir
from mpkir.errors import MpkirError
from mpkir.runtime.artifact import Artifact, write_artifact
from mpkir.runtime.manifest import LanguageRoles, Manifest, Signature, Target
from mpkir.runtime.program import Program, load
from mpkir.runtime.table import Table

X = torch.tensor([1.0, 1.0, 2.0, 2.0])


@pytest.fixture
def rewrite(
    tmp_path: Path, table: Table, binary: bytes, weights: dict[str, torch.Tensor]
) -> Callable[[Manifest], Artifact]:
    """Write an artifact with the same kernel and another manifest."""

    def write(manifest: Manifest) -> Artifact:
        scale = {"scale": torch.tensor([10.0])}
        return write_artifact(
            tmp_path / "again",
            manifest,
            table,
            source="",
            binary=binary,
            constants=scale,
            weights=weights,
        )

    return write


def test_call(artifact: Artifact):
    program = mpkir.load(artifact.path)
    first = program(X)
    assert first.tolist() == [9, 19, 59, 79]
    assert program(X).tolist() == [19, 39, 119, 159]
    assert first.tolist() == [9, 19, 59, 79]  # a copy
    program.reset()
    assert program(X).tolist() == [9, 19, 59, 79]


def test_run_and_buffers(artifact: Artifact):
    program = load(str(artifact.path))
    program.buffer("x").copy_(X)
    assert program.run(position=5, steps=2) == 2
    assert program.buffer("z").tolist() == [-1 + 2 * y + 5 + 6 for y in (10, 20, 60, 80)]
    assert program.buffer("y").tolist() == [1, 2, 6, 8]
    with pytest.raises(MpkirError, match="the program has no buffer 'q'"):
        program.buffer("q")


def test_weights_handed_over_are_shared(artifact: Artifact):
    weight = torch.tensor([1.0, 1.0, 1.0, 1.0])
    program = Program(artifact, weights={"layer.weight": weight, "unused": weight})
    assert program(X).tolist() == [9, 9, 19, 19]
    program.reset()
    weight.fill_(0)
    assert program(X).tolist() == [-1, -1, -1, -1]


def test_artifact_without_weights(
    tmp_path: Path,
    manifest: Manifest,
    table: Table,
    binary: bytes,
    weights: dict[str, torch.Tensor],
):
    path = tmp_path / "a"
    scale = {"scale": torch.tensor([10.0])}
    write_artifact(path, manifest, table, source="", binary=binary, constants=scale)
    with pytest.raises(MpkirError, match="the artifact holds no weights and refers to none; hand"):
        load(path)
    with pytest.raises(MpkirError, match=r"weight 'layer\.weight' is missing among 1 tensors"):
        load(path, weights={"other": X})
    assert load(path, weights=weights)(X).tolist() == [9, 19, 59, 79]


def test_bad_calls(artifact: Artifact):
    program = load(artifact.path)
    with pytest.raises(MpkirError, match="found 2 tensors, expected 1: x"):
        program(X, X)
    with pytest.raises(MpkirError, match="input 'x' is int, expected a tensor"):
        program(3)
    with pytest.raises(
        MpkirError, match=r"input 'x' is float32\[2\], the program was compiled for"
    ):
        program(X[:2])
    with pytest.raises(MpkirError, match="cannot run 0 steps from position 0"):
        program.run(steps=0)
    with pytest.raises(MpkirError, match="cannot run 1 steps from position -1"):
        program.run(position=-1)


def test_structured_arguments(manifest: Manifest, rewrite: Callable[[Manifest], Artifact]):
    in_tree = pytree.treespec_dumps(pytree.tree_structure(((), {"batch": {"x": X}})))
    out_tree = pytree.treespec_dumps(pytree.tree_structure({"z": X, "more": [X]}))
    signature = Signature(("x",), ("z", "y"), in_tree, out_tree)
    program = Program(rewrite(dataclasses.replace(manifest, signature=signature)))
    result = program(batch={"x": X})
    assert result["z"].tolist() == [9, 19, 59, 79]
    assert [y.tolist() for y in result["more"]] == [[1, 2, 6, 8]]
    with pytest.raises(MpkirError, match="not arranged as in the example"):
        program(X)


def test_several_results_and_none(manifest: Manifest, rewrite: Callable[[Manifest], Artifact]):
    both = dataclasses.replace(manifest, signature=Signature(("x",), ("y", "z")))
    y, z = Program(rewrite(both))(X)
    assert (y.tolist(), z.tolist()) == ([1, 2, 6, 8], [9, 19, 59, 79])
    program = Program(rewrite(dataclasses.replace(manifest, signature=None)))
    with pytest.raises(MpkirError, match="no call signature; set its buffers and use run"):
        program(X)


def test_capacity(manifest: Manifest, rewrite: Callable[[Manifest], Artifact]):
    language = LanguageRoles("x", "z", capacity=8, vocabulary=4)
    program = Program(rewrite(dataclasses.replace(manifest, language=language)))
    assert program.run(position=6, steps=2) == 2
    with pytest.raises(MpkirError, match="3 steps from position 6 end at 9, but the program was"):
        program.run(position=6, steps=3)


def test_wrong_device(artifact: Artifact):
    with pytest.raises(MpkirError, match=r"for cpu \(cpu\) cannot run on device 'cuda:0'"):
        load(artifact.path, device="cuda:0")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpu_program_without_gpu(manifest: Manifest, rewrite: Callable[[Manifest], Artifact]):
    target = Target("cuda", "h100", "sm_90a", workers=2)
    artifact = rewrite(dataclasses.replace(manifest, target=target))
    with pytest.raises(MpkirError, match=r"compiled for a GPU \(h100, sm_90a\), but torch sees no"):
        Program(artifact)


def test_loads_and_runs_without_the_compiler(artifact: Artifact):
    """In a process where neither xDSL nor any part of the compiler can be imported."""
    script = """
import sys
for name in ("xdsl", "ml_dtypes", "transformers", "mpkir.dialects", "mpkir.passes",
             "mpkir.backends", "mpkir.analysis", "mpkir.frontend", "mpkir.pipeline"):
    sys.modules[name] = None
import torch
import mpkir
program = mpkir.load(sys.argv[1])
print(program(torch.tensor([1.0, 1.0, 2.0, 2.0])).tolist())
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(artifact.path)], capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.stdout == "[9.0, 19.0, 59.0, 79.0]\n"
