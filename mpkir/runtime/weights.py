"""Tensors in safetensors files: written, looked up by name, and known by their hash."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mpkir.errors import MpkirError
from mpkir.runtime.arrangement import Arrangement, Shape, Stacked, Swapped, shape_of, swapped
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


Box = tuple[tuple[int, int], ...]
"""First and end of the indices along each dimension."""


class _Place(NamedTuple):
    """Where a tensor lies: its first byte in a file."""

    path: Path
    file_size: int
    first: int
    dtype: torch.dtype
    shape: Shape


def _places_of(path: Path) -> dict[str, _Place]:
    """The tensors of a safetensors file; SafetensorError or OSError for what is none."""
    places: dict[str, _Place] = {}
    with safe_open(path, framework="pt") as file, path.open("rb") as raw:
        # The format: the header's length in 8 bytes, the header in JSON, then the tensors.
        length = int.from_bytes(raw.read(8), "little")
        header = json.loads(raw.read(length))
        size = path.stat().st_size
        for name in file.keys():
            first = 8 + length + header[name]["data_offsets"][0]
            part = file.get_slice(name)
            shape = tuple(part.get_shape())
            dtype = (part[:0] if shape else file.get_tensor(name)).dtype
            places[name] = _Place(path, size, first, dtype, shape)
    return places


class TensorFiles(Mapping[str, torch.Tensor]):
    """The tensors of several safetensors files by name, each read when it is asked for.

    called  other names under which tensors of the files are to be found, or what is made of some
    dtypes  by name, of tensors that are wanted in another type than the files'
    """

    def __init__(
        self,
        paths: Iterable[Path],
        called: Mapping[str, Arrangement] | None = None,
        dtypes: Mapping[str, torch.dtype] | None = None,
    ) -> None:
        self._places: dict[str, _Place] = {}
        self._called = {} if called is None else called
        self._dtypes = {} if dtypes is None else dtypes
        for path in paths:
            try:
                self._places |= _places_of(path)
            except (SafetensorError, OSError) as error:
                raise MpkirError(
                    f"not a readable safetensors file ({error})",
                    where=str(path),
                    hint="fetch the weights again",
                ) from error

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.box_of(name, tuple((0, size) for size in self.shape_of(name)))

    def shape_of(self, name: str) -> Shape:
        """The shape of a tensor, without reading it. ValueError where tensors that it is made of do
        not fit together."""
        return shape_of(self._arrangement(name), self._shape_in_file)

    def can_make(self, name: str) -> bool:
        """Whether the files hold a tensor, or all that it is made of."""
        try:
            self.shape_of(name)
        except (KeyError, ValueError):
            return False
        return True

    def rows_of(self, name: str, first: int, end: int) -> torch.Tensor:
        """Some rows (indices of dimension 0) of a tensor."""
        return self.box_of(name, ((first, end), *((0, n) for n in self.shape_of(name)[1:])))

    def is_in_one_piece(self, name: str) -> bool:
        """Whether a tensor lies in a file as it is."""
        return isinstance(self._arrangement(name), str)

    def box_of(self, name: str, box: Box) -> torch.Tensor:
        """Some indices along each dimension of a tensor.

        What is in one piece in a file are pages of it until somebody copies them, and counts to the
        memory of the process only as long as the result lives.
        """
        tensor = self._put_together(self._arrangement(name), box)
        return tensor.to(self._dtypes.get(name, tensor.dtype))

    def _read(self, name: str, box: Box) -> torch.Tensor:
        """A box of a tensor of a file."""
        place = self._places[name]
        if place.first % place.dtype.itemsize:
            with safe_open(place.path, framework="pt") as file:
                tensor: torch.Tensor = file.get_tensor(name)
        else:
            # Not by safe_open, which takes milliseconds to read the names of a thousand experts.
            content = torch.from_file(str(place.path), False, place.file_size, dtype=torch.uint8)
            size = math.prod(place.shape) * place.dtype.itemsize
            tensor = content.narrow(0, place.first, size).view(place.dtype).view(place.shape)
        for dim, (first, end) in enumerate(box):
            tensor = tensor.narrow(dim, first, end - first)
        return tensor

    def _put_together(self, arrangement: Arrangement, box: Box) -> torch.Tensor:
        """A box of what is made of the files' tensors; reads nothing else of these."""
        if isinstance(arrangement, str):
            return self._read(arrangement, box)
        if isinstance(arrangement, Swapped):
            whole = self._put_together(arrangement.whole, swapped(box, arrangement.dims))
            return whole.transpose(*arrangement.dims)
        dim, parts = arrangement.dim, arrangement.parts
        before, (first, end), after = box[:dim], box[dim], box[dim + 1 :]
        if isinstance(arrangement, Stacked):
            pieces = [
                self._put_together(part, before + after).unsqueeze(dim) for part in parts[first:end]
            ]
            return _cat(pieces, dim)
        pieces: list[torch.Tensor] = []
        start = 0
        for part in parts:
            size = shape_of(part, self._shape_in_file)[dim]
            own = max(first - start, 0), min(end - start, size)
            if own[0] < own[1]:
                pieces.append(self._put_together(part, (*before, own, *after)))
            start += size
        return _cat(pieces, dim)

    def _shape_in_file(self, name: str) -> Shape:
        return self._places[name].shape

    def _arrangement(self, name: str) -> Arrangement:
        if name in self._called:
            return self._called[name]
        if name not in self._places:
            raise KeyError(name)
        return name

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._places, *self._called)))

    def __len__(self) -> int:
        return len(self._places.keys() | self._called.keys())

    def __contains__(self, name: object) -> bool:
        return name in self._places or name in self._called


def _cat(pieces: list[torch.Tensor], dim: int) -> torch.Tensor:
    """Tensors one after another; a single one is not copied."""
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)
