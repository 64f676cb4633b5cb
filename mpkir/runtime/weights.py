"""Tensors in safetensors files: written, looked up by name, and known by their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mpkir.errors import MpkirError
from mpkir.runtime.manifest import FileRecord

_CHANGED = "the file has changed since the artifact was written"


def record_of(path: Path) -> FileRecord:
    """Size and sha256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(sha256=digest, size=path.stat().st_size)


def check_record(path: Path, wanted: FileRecord, hint: str) -> None:
    """Raise MpkirError unless `path` has the content it had when the artifact was written."""
    check_size(path, wanted, hint)
    try:
        if record_of(path).sha256 == wanted.sha256:
            return
        what = _CHANGED
    except OSError as error:
        what = f"the file cannot be read ({error.strerror})"
    raise MpkirError(what, where=str(path), hint=hint)


def check_size(path: Path, wanted: FileRecord, hint: str) -> None:
    """Raise MpkirError unless `path` is there and as long as when the artifact was written."""
    try:
        size = path.stat().st_size
        if size == wanted.size:
            return
        cut = f"the file was truncated: it has {size} bytes of {wanted.size}"
        what = cut if size < wanted.size else _CHANGED
    except FileNotFoundError:
        what = "the file is missing"
    except OSError as error:
        what = f"the file cannot be read ({error.strerror})"
    raise MpkirError(what, where=str(path), hint=hint)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file; of tensors that share memory each gets a copy."""
    seen: set[int] = set()
    unshared: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        # safetensors refuses to write two names for one storage.
        if storage.data_ptr() in seen or storage.nbytes() != plain.nbytes:
            plain = plain.clone()
        seen.add(storage.data_ptr())
        unshared[name] = plain
    save_file(unshared, path)


class TensorFiles(Mapping[str, torch.Tensor]):
    """The tensors of several safetensors files by name, each read when it is asked for.

    called  other names under which tensors of the files are to be found
    dtypes  by name, of tensors that are wanted in another type than the files'
    """

    def __init__(
        self,
        paths: Iterable[Path],
        called: Mapping[str, str] | None = None,
        dtypes: Mapping[str, torch.dtype] | None = None,
    ) -> None:
        self._file_of: dict[str, Path] = {}
        self._called = {} if called is None else called
        self._dtypes = {} if dtypes is None else dtypes
        for path in paths:
            try:
                with safe_open(path, framework="pt") as file:
                    self._file_of.update(dict.fromkeys(file.keys(), path))
            except (SafetensorError, OSError) as error:
                raise MpkirError(
                    f"not a readable safetensors file ({error})",
                    where=str(path),
                    hint="fetch the weights again",
                ) from error
        for name, own in self._called.items():
            self._file_of[name] = self._file_of[own]

    def __getitem__(self, name: str) -> torch.Tensor:
        with safe_open(self._file_of[name], framework="pt") as file:
            return self._wanted(name, file.get_tensor(self._called.get(name, name)))

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        with safe_open(self._file_of[name], framework="pt") as file:
            return tuple(file.get_slice(self._called.get(name, name)).get_shape())

    def rows_of(self, name: str, first: int, end: int) -> torch.Tensor:
        """Some rows (indices of dimension 0) of a tensor.

        They are pages of the file until somebody copies them, and count to the memory of the
        process only as long as the result lives.
        """
        with safe_open(self._file_of[name], framework="pt") as file:
            rows = file.get_slice(self._called.get(name, name))[first:end]
            return self._wanted(name, rows)

    def _wanted(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._dtypes.get(name, tensor.dtype))

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)
