"""GGUF files: what is checked before transformers reads one, so that a bad file is a clear error.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from mpkir.errors import MpkirError

_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class GgufHeader:
    """The metadata of a file whose tensors are all there; arrays are left out."""

    architecture: str
    metadata: dict[str, Any]
    tensors: int


def read_gguf_header(path: Path) -> GgufHeader:
    """Read and check a file's header; MpkirError if it is no GGUF file, cut short, or too new."""
    try:
        with path.open("rb") as file:
            return _Reader(path, file).header()
    except (EOFError, struct.error) as error:
        raise _truncated(path, "its header") from error
    except OSError as error:
        raise MpkirError(f"cannot read {path}: {error.strerror}") from error


def _truncated(path: Path, what: str) -> MpkirError:
    return MpkirError(
        f"{path} ends in the middle of {what} ({path.stat().st_size} bytes)",
        hint="the file is truncated; download it again",
    )


class _Reader:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.size = path.stat().st_size

    def header(self) -> GgufHeader:
        if self.file.read(4) != b"GGUF":
            raise MpkirError(f"{self.path} is no GGUF file (it does not begin with 'GGUF')")
        version = self.scalar("<I")
        if version not in (2, 3):
            raise MpkirError(
                f"{self.path} has GGUF version {version}", hint="versions 2 and 3 are supported"
            )
        tensors, keys = self.scalar("<Q"), self.scalar("<Q")
        metadata = {self.string(): self.value(self.scalar("<I")) for _ in range(keys)}
        ends = [self.tensor_end() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", 32)
        data = -(-self.file.tell() // alignment) * alignment
        if ends and data + max(ends) > self.size:
            raise _truncated(self.path, f"its {tensors} tensors")
        if "general.architecture" not in metadata:
            raise MpkirError(f"{self.path} does not name its architecture")
        return GgufHeader(metadata["general.architecture"], metadata, tensors)

    def scalar(self, form: str) -> Any:
        size = struct.calcsize(form)
        return struct.unpack(form, self.bytes(size))[0]

    def bytes(self, count: int) -> bytes:
        if count > self.size:
            raise EOFError
        data = self.file.read(count)
        if len(data) < count:
            raise EOFError
        return data

    def string(self) -> str:
        return self.bytes(self.scalar("<Q")).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        """A metadata value; None for an array, which is passed over."""
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            if kind not in _SCALARS:
                raise MpkirError(f"{self.path} has a value of the unknown type {kind}")
            return self.scalar(_SCALARS[kind])
        element, count = self.scalar("<I"), self.scalar("<Q")
        if element in _SCALARS:
            self.bytes(struct.calcsize(_SCALARS[element]) * count)
        else:
            for _ in range(count):
                self.value(element)
        return None

    def tensor_end(self) -> int:
        """Where a tensor's data ends, counted from the start of all data."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        name = self.string()
        shape = [self.scalar("<Q") for _ in range(self.scalar("<I"))]
        kind, offset = self.scalar("<I"), self.scalar("<Q")
        try:
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (ValueError, KeyError) as error:
            raise MpkirError(
                f"{self.path}: tensor '{name}' has the unknown quantization {kind}",
                hint="a newer version of the package 'gguf' may know it",
            ) from error
        return offset + prod(shape) // block * size
