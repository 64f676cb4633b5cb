"""An artifact: the directory that holds a compiled program (docs/artifact.md lists its files)."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from mpkir.errors import MpkirError
from mpkir.runtime.manifest import MANIFEST, FileRecord, Manifest, Place
from mpkir.runtime.table import Table
from mpkir.runtime.table_text import disassemble
from mpkir.runtime.weights import TensorFiles, check_record, check_size, record_of, write_tensors

TABLE = "table"
TABLE_TEXT = "table.mpkt"
CONSTANTS = "constants.safetensors"
WEIGHTS = "weights.safetensors"

_COMPILE_AGAIN = "compile the model again"
_FETCH_AGAIN = "restore that file, or compile the model again with the weights as they are now"


@dataclass(frozen=True)
class Artifact:
    """A checked artifact directory."""

    path: Path
    manifest: Manifest
    table: Table

    @property
    def source_path(self) -> Path:
        return self.path / self.manifest.source

    @property
    def binary_path(self) -> Path:
        return self.path / self.manifest.binary

    def constants(self) -> TensorFiles:
        """The small tensors kept in the artifact, by name."""
        return TensorFiles([self.path / CONSTANTS])

    def weights(self) -> TensorFiles:
        """The weights that the artifact holds or refers to, by name; none if it has none."""
        files = (self.path / name for name in self.manifest.weight_files)
        return TensorFiles(files, self.manifest.made_weights)


def write_artifact(
    path: str | Path,
    manifest: Manifest,
    table: Table,
    *,
    source: str,
    binary: bytes,
    constants: Mapping[str, torch.Tensor] | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
    weight_files: Iterable[str | Path] = (),
    extra_files: Mapping[str, bytes] | None = None,
) -> Artifact:
    """Write a directory at `path`, whole or not at all, in place of an older artifact there.

    manifest      everything but the file records, which are filled in here
    constants     for the buffers of kind constant, and states that begin so, by `source`
    weights       to be stored in the artifact, by `source`
    weight_files  safetensors files to refer to instead; with neither, whoever loads the artifact
                  hands the weights over
    extra_files   by file name, kept and checked like the rest, e.g. a tokenizer

    Raises MpkirError if the parts do not fit each other or `path` holds something else.
    """
    path = Path(os.path.abspath(path))
    check_replaceable(path)
    _check_parts(manifest, table, constants or {})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        _write_text(draft / manifest.source, source)
        (draft / manifest.binary).write_bytes(binary)
        table.save(draft / TABLE)
        _write_text(draft / TABLE_TEXT, disassemble(table))
        write_tensors(draft / CONSTANTS, constants or {})
        for name, content in (extra_files or {}).items():
            _inside(draft, name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_bytes(content)
        manifest = dataclasses.replace(
            manifest,
            files={
                file.relative_to(draft).as_posix(): record_of(file)
                for file in sorted(draft.rglob("*"))
                if file.is_file()
            },
            weight_files=_record_weights(draft, weights, weight_files),
        )
        _write_text(draft / MANIFEST, manifest.to_json())
        draft.chmod(0o755)
        _move_into_place(draft, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Artifact(path, manifest, table)


def load_artifact(path: str | Path, place: Place = Place()) -> Artifact:
    """Read and check an artifact: its manifest, each file's hash, and the table.

    The weights are checked too; where several ranks load it, each checks some of the files, and
    that the others are there. Raises MpkirError at the first thing that is not as it was written.
    """
    path = Path(os.path.abspath(path))
    manifest = read_manifest(path)
    _check_files({_inside(path, name): at for name, at in manifest.files.items()}, _COMPILE_AGAIN)
    for name in (manifest.source, manifest.binary, TABLE_TEXT, CONSTANTS):
        if name not in manifest.files:
            raise MpkirError(
                f"it lists no file {name!r}", where=str(path / MANIFEST), hint=_COMPILE_AGAIN
            )
    weights = {path / name: at for name, at in manifest.weight_files.items()}
    for file, at in weights.items():
        check_size(file, at, _FETCH_AGAIN)
    mine = list(weights.items())[place.rank :: place.ranks]
    _check_files(dict(mine), _FETCH_AGAIN)
    table = Table.load(path / TABLE, manifest.names, manifest.ranks, manifest.peer_events)
    if table.worker_count != manifest.target.workers:
        raise MpkirError(
            f"the table is for {table.worker_count} workers, the manifest for "
            f"{manifest.target.workers}",
            where=str(path),
            hint=_COMPILE_AGAIN,
        )
    return Artifact(path, manifest, table)


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of the artifact at `path` without looking at the other files."""
    file = path / MANIFEST
    try:
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        what = f"no {MANIFEST} here" if path.is_dir() else "there is no such directory"
        raise MpkirError(
            what, where=str(path), hint="give the directory that `mpk compile` wrote"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise MpkirError(f"the file cannot be read ({error})", where=str(file)) from error
    return Manifest.from_json(text, str(file))


def _check_files(records: Mapping[Path, FileRecord], hint: str) -> None:
    """Raise MpkirError for the first file that is not as recorded; hashes several at a time."""
    with ThreadPoolExecutor() as pool:
        checks = [pool.submit(check_record, path, at, hint) for path, at in records.items()]
    for check in checks:
        check.result()


def check_replaceable(path: str | Path) -> None:
    """Raise MpkirError unless `path` is free, an empty directory, or an artifact of any version."""
    path = Path(path)
    if not os.path.lexists(path):
        return
    if path.is_dir() and not path.is_symlink():
        if not any(path.iterdir()):
            return
        try:
            if '"mpkir-artifact"' in (path / MANIFEST).read_text(encoding="utf-8"):
                return
        except (OSError, UnicodeDecodeError):
            pass
    raise MpkirError(
        "this exists and is no mpkir artifact, so it is not overwritten",
        where=str(path),
        hint="give another output directory",
    )


def _check_parts(manifest: Manifest, table: Table, constants: Mapping[str, torch.Tensor]) -> None:
    manifest.validate()
    table.validate()
    if table.names != manifest.names:
        raise MpkirError("the names in the table are not those in the manifest")
    if table.worker_count != manifest.target.workers:
        raise MpkirError("the table and the manifest have different numbers of workers")
    if (table.ranks, table.peer_events) != (manifest.ranks, manifest.peer_events):
        raise MpkirError("the table and the manifest differ in ranks or their events")
    wanted = {
        name
        for buffer in manifest.buffers
        if buffer.kind in ("constant", "state")
        for name in buffer.sources
    }
    if missing := wanted - constants.keys():
        raise MpkirError(f"constant {min(missing)!r} has no value")


def _record_weights(
    draft: Path,
    weights: Mapping[str, torch.Tensor] | None,
    weight_files: Iterable[str | Path],
) -> dict[str, FileRecord]:
    records = {os.path.abspath(file): record_of(Path(file)) for file in weight_files}
    if weights is not None:
        write_tensors(draft / WEIGHTS, weights)
        records[WEIGHTS] = record_of(draft / WEIGHTS)
    return records


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _move_into_place(draft: Path, path: Path) -> None:
    if not path.exists():
        draft.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)) / "old"
    path.rename(old)
    try:
        draft.rename(path)
    except OSError:
        old.rename(path)
        raise
    finally:
        shutil.rmtree(old.parent, ignore_errors=True)


def _inside(path: Path, name: str) -> Path:
    file = path / name
    if not file.resolve().is_relative_to(path.resolve()):
        raise MpkirError(f"file {name!r} is outside the artifact", where=str(path / MANIFEST))
    return file


def _cannot_write(path: Path, error: OSError) -> MpkirError:
    return MpkirError(
        f"the artifact cannot be written ({error.strerror})",
        where=str(path),
        hint="give another output directory or make room",
    )
