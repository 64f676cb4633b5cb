"""Artifacts are whole or not there; what is missing, changed or newer is refused by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mpkir.errors import MpkirError
from mpkir.runtime import artifact as artifact_module
from mpkir.runtime.artifact import Artifact, load_artifact, write_artifact
from mpkir.runtime.manifest import Manifest
from mpkir.runtime.table import Table
from mpkir.runtime.table_text import assemble

SCALE = {"scale": torch.tensor([10.0])}


def edit_manifest(artifact: Artifact, **changes: object) -> None:
    file = artifact.path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_what_was_written_is_loaded(artifact: Artifact, manifest: Manifest, table: Table):
    loaded = load_artifact(artifact.path)
    assert loaded == artifact
    assert loaded.table == table
    assert loaded.manifest.buffers == manifest.buffers
    assert loaded.source_path.read_text().startswith("struct Task")
    assert sorted(loaded.manifest.files) == [
        "constants.safetensors",
        "kernel.c",
        "kernel.so",
        "table.mpkt",
        "table/events.npy",
        "table/families.npy",
        "table/tasks.npy",
        "table/workers.npy",
    ]
    assert dict(loaded.constants()) == SCALE
    assert loaded.weights()["layer.weight"].tolist() == [1, 2, 3, 4]


def test_the_text_in_an_artifact_is_its_table(artifact: Artifact):
    assert assemble((artifact.path / "table.mpkt").read_text()) == artifact.table


@pytest.mark.parametrize(
    "name",
    ["kernel.c", "kernel.so", "table/tasks.npy", "table.mpkt", "constants.safetensors"],
)
def test_damaged_files(artifact: Artifact, name: str):
    file = artifact.path / name
    content = file.read_bytes()
    file.write_bytes(content[:-4])
    with pytest.raises(MpkirError, match=f"{name}: the file was truncated: it has .* bytes of"):
        load_artifact(artifact.path)
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(MpkirError, match=f"{name}: the file has changed since"):
        load_artifact(artifact.path)
    file.unlink()
    with pytest.raises(MpkirError, match=f"{name}: the file is missing; compile the model again"):
        load_artifact(artifact.path)


def test_no_artifact(tmp_path: Path):
    with pytest.raises(MpkirError, match="nowhere: there is no such directory"):
        load_artifact(tmp_path / "nowhere")
    with pytest.raises(MpkirError, match=r"no manifest\.json here"):
        load_artifact(tmp_path)


def test_newer_format(artifact: Artifact):
    edit_manifest(artifact, format_version=9, mpkir_version="9.9")
    with pytest.raises(MpkirError, match=r"format version 9 \(written by mpkir 9\.9\)"):
        load_artifact(artifact.path)


def test_manifest_and_table_disagree(artifact: Artifact):
    edit_manifest(artifact, events=["e0"])
    with pytest.raises(MpkirError, match="the table has 2 events, but 1 names"):
        load_artifact(artifact.path)


def test_wrong_number_of_workers(artifact: Artifact):
    target = json.loads((artifact.path / "manifest.json").read_text())["target"]
    edit_manifest(artifact, target=target | {"workers": 3})
    with pytest.raises(MpkirError, match="the table is for 2 workers, the manifest for 3"):
        load_artifact(artifact.path)


def test_files_outside_the_artifact(artifact: Artifact):
    edit_manifest(artifact, files={"../x": {"sha256": "", "size": 0}})
    with pytest.raises(MpkirError, match=r"'\.\./x' is outside the artifact"):
        load_artifact(artifact.path)


def test_binary_not_listed(artifact: Artifact):
    edit_manifest(artifact, binary="other.so")
    with pytest.raises(MpkirError, match=r"lists no file 'other\.so'"):
        load_artifact(artifact.path)


def test_changed_weights_inside(artifact: Artifact):
    file = artifact.path / "weights.safetensors"
    save_file({"layer.weight": torch.zeros(4)}, file)
    with pytest.raises(MpkirError, match=r"weights\.safetensors: the file has changed since"):
        load_artifact(artifact.path)


def test_weights_by_reference(
    tmp_path: Path, manifest: Manifest, table: Table, weights: dict[str, torch.Tensor]
):
    file = tmp_path / "model.safetensors"
    save_file(weights, file)
    artifact = write_artifact(
        tmp_path / "a", manifest, table, source="", binary=b"", constants=SCALE, weight_files=[file]
    )
    assert not (artifact.path / "weights.safetensors").exists()
    assert load_artifact(artifact.path).weights()["layer.weight"].tolist() == [1, 2, 3, 4]

    save_file({"layer.weight": torch.zeros(4)}, file)
    with pytest.raises(MpkirError, match=r"model\.safetensors: the file has changed since"):
        load_artifact(artifact.path)
    file.unlink()
    with pytest.raises(MpkirError, match=r"model\.safetensors: the file is missing; restore"):
        load_artifact(artifact.path)


def test_weights_that_share_memory(tmp_path: Path, manifest: Manifest, table: Table):
    shared = torch.arange(8.0)
    weights = {
        "layer.weight": shared[:4],
        "tied": shared[:4],
        "all": shared,
        "strided": shared[::2],
    }
    artifact = write_artifact(
        tmp_path / "a", manifest, table, source="", binary=b"", constants=SCALE, weights=weights
    )
    stored = load_file(artifact.path / "weights.safetensors")
    assert {name: tensor.tolist() for name, tensor in stored.items()} == {
        "layer.weight": [0, 1, 2, 3],
        "tied": [0, 1, 2, 3],
        "all": list(range(8)),
        "strided": [0, 2, 4, 6],
    }


def test_an_artifact_is_replaced(artifact: Artifact, manifest: Manifest, table: Table):
    write_artifact(artifact.path, manifest, table, source="new", binary=b"new", constants=SCALE)
    assert load_artifact(artifact.path).source_path.read_text() == "new"
    assert [entry.name for entry in artifact.path.parent.iterdir()] == ["artifact"]


@pytest.mark.parametrize("what", ["file", "full directory", "link"])
def test_nothing_else_is_replaced(tmp_path: Path, manifest: Manifest, table: Table, what: str):
    path = tmp_path / "mine"
    if what == "file":
        path.write_text("precious")
    elif what == "link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.mkdir()
        (path / "thesis.txt").write_text("precious")
    with pytest.raises(MpkirError, match="mine: this exists and is no mpkir artifact"):
        write_artifact(path, manifest, table, source="", binary=b"", constants=SCALE)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]


def test_an_empty_directory_is_used(tmp_path: Path, manifest: Manifest, table: Table):
    write_artifact(tmp_path, manifest, table, source="", binary=b"", constants=SCALE)
    assert load_artifact(tmp_path).table == table


def test_a_failure_leaves_nothing_behind(
    artifact: Artifact, manifest: Manifest, table: Table, monkeypatch: pytest.MonkeyPatch
):
    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact_module, "write_tensors", no_room)
    for path in (artifact.path, artifact.path.parent / "new"):
        with pytest.raises(MpkirError, match=r"cannot be written \(No space left on device\)"):
            write_artifact(path, manifest, table, source="", binary=b"", constants=SCALE)
    assert [entry.name for entry in artifact.path.parent.iterdir()] == ["artifact"]
    assert load_artifact(artifact.path) == artifact


def test_parts_that_do_not_fit(tmp_path: Path, manifest: Manifest, table: Table):
    def write(manifest: Manifest, constants: dict[str, torch.Tensor]) -> None:
        write_artifact(tmp_path / "a", manifest, table, source="", binary=b"", constants=constants)

    with pytest.raises(MpkirError, match="constant 'scale' has no value"):
        write(manifest, {})
    with pytest.raises(MpkirError, match="names in the table are not those in the manifest"):
        write(dataclasses.replace(manifest, bodies=("one", "two")), SCALE)
    target = dataclasses.replace(manifest.target, workers=1)
    with pytest.raises(MpkirError, match="different numbers of workers"):
        write(dataclasses.replace(manifest, target=target), SCALE)
    assert list(tmp_path.iterdir()) == []


def test_extra_files(tmp_path: Path, manifest: Manifest, table: Table):
    def write(name: str) -> Artifact:
        extra = {name: b"{}"}
        return write_artifact(
            tmp_path / "a",
            manifest,
            table,
            source="",
            binary=b"",
            constants=SCALE,
            extra_files=extra,
        )

    artifact = load_artifact(write("tokenizer/vocabulary.json").path)
    assert (artifact.path / "tokenizer/vocabulary.json").read_bytes() == b"{}"
    assert "tokenizer/vocabulary.json" in artifact.manifest.files
    with pytest.raises(MpkirError, match=r"'\.\./x' is outside the artifact"):
        write("../x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
