"""What an artifact says about itself: manifest.json as dataclasses (see docs/artifact.md)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from math import prod
from typing import Literal, TypeAlias

from mpkir.errors import MpkirError
from mpkir.runtime.arrangement import Arrangement
from mpkir.runtime.json_records import decode, encode
from mpkir.runtime.table import TableNames
from mpkir.version import VERSION

FORMAT = "mpkir-artifact"
FORMAT_VERSION = 2
MANIFEST = "manifest.json"

BufferKind: TypeAlias = Literal["weight", "constant", "state", "input", "output", "scratch"]

DTYPE_BYTES = {
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "bfloat16": 2,
    "float16": 2,
    "float32": 4,
    "float64": 8,
}
"""Element types of buffers, named as in NumPy and torch, with the bytes of one element."""

TAGGED_BYTES = {"bfloat16": 4, "float16": 4, "float32": 8}
"""Bytes of one element of a flagged buffer: the value and its tag."""

_BRIEF_DTYPES = ("bfloat16", "float32")

LINE_BYTES = 128
"""Bytes of a line of memory."""

PANEL_ROWS = 8
"""A panel has room for a multiple of so many tokens."""

MAX_RANKS = 16
"""Ranks that a program can be compiled for: places in `struct Peers` of include/mpk/abi.*."""

PACKED_ROWS, PACKED_COLUMNS = 8, 32
"""A packed matrix [N, K] lies as [N / 8][K / 32][8][32], of 8 neighbours of a row the pairs 0, 2, 1
and 3."""


def is_packable(shape: tuple[int, ...]) -> bool:
    """Whether a matrix of this shape is a whole number of blocks."""
    return len(shape) == 2 and shape[0] % PACKED_ROWS == 0 and shape[1] % PACKED_COLUMNS == 0


_CUDA_ARCH = re.compile(r"sm_\d{2,3}[af]?")


@dataclass(frozen=True)
class Target:
    """What the binary runs on.

    arch      cpu: the machine as `uname -m` says it; cuda: "sm_90a", "sm_80"
    features  cpu flags that the code may use
    workers   threads, or CTAs that must all be resident at once
    shared_bytes dynamic shared memory of one worker (cuda)
    launch    one kernel that stays for all steps, or one for each family, in the order of
              `Manifest.families` (cuda)
    transport of several ranks: they map each other's memory, or by NVSHMEM also where only a
              network connects them (cuda)
    """

    kind: Literal["cpu", "cuda"]
    name: str
    arch: str
    workers: int
    features: tuple[str, ...] = ()
    shared_bytes: int = 0
    launch: Literal["persistent", "per-operator"] = "persistent"
    transport: Literal["direct", "nvshmem"] = "direct"


@dataclass(frozen=True)
class Place:
    """Which of several ranks this is."""

    rank: int = 0
    ranks: int = 1


@dataclass(frozen=True)
class Piece:
    """So many neighbouring indices of a dimension, in so many equal parts."""

    size: int
    of: int


@dataclass(frozen=True)
class Shard:
    """One of `of` equal parts of a tensor along dimension `dim`: what one rank has of it.

    Rank r of R has part r * of // R, so that neighbours share one where there are fewer than ranks.

    pieces  of a weight that consists of several along `dim` a rank has a part of each, one after
            another; `of` is the most of theirs
    """

    dim: int
    of: int
    pieces: tuple[Piece, ...] = ()

    def part(self, place: Place) -> int:
        """Which part a rank has."""
        return place.rank * self.of // place.ranks

    def whole(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the tensor of which a rank has one part of `shape`."""
        size = sum(piece.size for piece in self.pieces) or shape[self.dim] * self.of
        return (*shape[: self.dim], size, *shape[self.dim + 1 :])

    def spans(self, size: int, place: Place) -> list[tuple[int, int]]:
        """First and end of the indices that a rank has along `dim`, `size` of them altogether."""
        result: list[tuple[int, int]] = []
        start = 0
        for piece in self.pieces or (Piece(size * self.of, self.of),):
            length = piece.size // piece.of
            first = start + place.rank * piece.of // place.ranks * length
            result.append((first, first + length))
            start += piece.size
        return result


@dataclass(frozen=True)
class Part:
    """A tensor that fills some rows (indices of dimension 0) of a joined weight.

    rows   of this rank; shard: which part of the source they are, None is all of it
    """

    source: str
    rows: int
    shard: Shard | None = None


@dataclass(frozen=True)
class Buffer:
    """One contiguous row-major allocation; its id in the table is its place in the manifest.

    kind     weight: a parameter, found by name at load; constant: a small tensor kept in the
             artifact; state: lives on between steps; input, output; scratch: an activation
    source   name of the tensor that fills a weight or constant, or a state at first
    initial  what fills a state without a source at first and after a reset; None is 0
    donated  the program writes over this state: a call's argument is changed like in PyTorch
    flagged  each element is one word that holds the value and the number of the step that wrote it
    brief    of a flagged buffer: of the number there is only the last bit, and a word is as large
             as the value. Of a float32 it is the last bit. A bfloat16 lies there times 2^-64, so
             that the first bit of its exponent is 0, which it takes the place of; one that is not
             below 2^64 lies as 1
    apart    of a flagged buffer: so many neighbouring words have LINE_BYTES to themselves; 0: all
             words lie together
    panels   of a flagged buffer: it lies as panels of so many columns, see memory_shape; 0: as it
             is. `columns` is how many a token has then
    planes   of a brief float32 in panels: it lies as two of bfloat16, the first what rounding
             leaves, the second what it loses
    packed   a weight [N, K] that lies in blocks, see PACKED_ROWS
    parts    what fills a joined weight or constant instead of one source, row after row
    shard    unless it is scratch or an input: which part of the tensor every rank has
    exchange scratch at the same place of every rank's heap: ranks write it for each other, row r
             (index of dimension 0) by rank r
    """

    name: str
    kind: BufferKind
    dtype: str
    shape: tuple[int, ...]
    source: str | None = None
    initial: int | float | None = None
    donated: bool = False
    flagged: bool = False
    brief: bool = False
    apart: int = 0
    panels: int = 0
    columns: int = 0
    planes: bool = False
    packed: bool = False
    parts: tuple[Part, ...] = ()
    shard: Shard | None = None
    exchange: bool = False

    @property
    def element_bytes(self) -> int:
        """Bytes of an element in memory, with its tag; in planes, of each part."""
        if self.planes:
            return DTYPE_BYTES["bfloat16"]
        tagged = self.flagged and not self.brief
        return (TAGGED_BYTES if tagged else DTYPE_BYTES)[self.dtype]

    @property
    def memory_shape(self) -> tuple[int, ...]:
        """Of the memory, in elements: groups that lie apart are the first part of each line, and
        tokens [T, columns] in panels are the first T of [columns / panels, T or more, panels],
        and there are two of these, one behind the other, of what lies in planes.
        """
        if self.panels:
            rows = -(-self.tokens // PANEL_ROWS) * PANEL_ROWS
            panels = (self.columns // self.panels, rows, self.panels)
            return (2, *panels) if self.planes else panels
        if not self.apart:
            return self.shape
        return (prod(self.shape) // self.apart, LINE_BYTES // self.element_bytes)

    @property
    def tokens(self) -> int:
        """Of a buffer in panels."""
        return prod(self.shape) // self.columns

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the tensors that fill it."""
        joined = tuple(part.source for part in self.parts)
        return joined if self.source is None else (self.source, *joined)


@dataclass(frozen=True)
class Signature:
    """How to call the program like the module it was made from, by buffer names.

    in_tree, out_tree  torch pytree specs of (args, kwargs) and of the result, as torch writes them
                       in JSON; None: tensors by position, and one tensor or a tuple
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    in_tree: str | None = None
    out_tree: str | None = None


@dataclass(frozen=True)
class LanguageRoles:
    """Which buffers make the program a language model.

    tokens    state int64[capacity + 1]: prompt and generated ids, -1 where not known yet
    logits    float32 output of the last token of a step
    batch     sequences that one launch decodes, at the same positions; if it is not 1, tokens is
              int64[batch, capacity + 1], and -2 stands where a sequence takes no more tokens
    """

    tokens: str
    logits: str
    capacity: int
    vocabulary: int
    stop_tokens: tuple[int, ...] = ()
    batch: int = 1


@dataclass(frozen=True)
class FileRecord:
    """Content of a file when the artifact was written."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """Everything a loader needs besides the files themselves.

    bodies, families, events  names in the order of their ids in the table
    tokens_per_step           by how much `position` rises from step to step
    ranks                     how many processes run the program together, each on its own shards
    peer_events               the last so many events are signalled at every rank, by all ranks
    source, binary            file names in the artifact
    info                      free remarks of the compiler, e.g. bytes read in one step
    files                     each other file of the artifact; filled in by `write_artifact`
    weight_files              safetensors with the weights: relative to the artifact or absolute;
                              empty: whoever loads the artifact hands them over
    made_weights              weights that the files hold under other names or in pieces, and how to
                              make each of what they hold
    """

    target: Target
    buffers: tuple[Buffer, ...]
    bodies: tuple[str, ...]
    families: tuple[str, ...]
    events: tuple[str, ...]
    source: str
    binary: str
    tokens_per_step: int = 1
    ranks: int = 1
    peer_events: int = 0
    signature: Signature | None = None
    language: LanguageRoles | None = None
    info: dict[str, str | int | float] = field(default_factory=dict[str, str | int | float])
    files: dict[str, FileRecord] = field(default_factory=dict[str, FileRecord])
    weight_files: dict[str, FileRecord] = field(default_factory=dict[str, FileRecord])
    made_weights: dict[str, Arrangement] = field(default_factory=dict[str, Arrangement])
    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    mpkir_version: str = VERSION

    @property
    def names(self) -> TableNames:
        """The names that the table's ids stand for."""
        buffers = tuple(buffer.name for buffer in self.buffers)
        return TableNames(buffers, self.bodies, self.families, self.events)

    def to_json(self) -> str:
        return json.dumps(encode(self), indent=1) + "\n"

    @staticmethod
    def from_json(text: str, where: str) -> Manifest:
        """Read a manifest. Raises MpkirError for another format, a newer version, or a misfit.

        where: its file name, for messages
        """
        try:
            value = json.loads(text)
        except ValueError as error:
            raise MpkirError(f"this is not JSON ({error})", where=where) from error
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise MpkirError("this is not the manifest of an mpkir artifact", where=where)
        version = value.get("format_version")
        if version != FORMAT_VERSION:
            raise MpkirError(
                f"the artifact has format version {version} (written by mpkir "
                f"{value.get('mpkir_version')}), this mpkir {VERSION} reads {FORMAT_VERSION}",
                where=where,
                hint="load it with that mpkir, or compile the model again with this one",
            )
        manifest = decode(Manifest, value, where)
        manifest.validate(where)
        return manifest

    def validate(self, where: str = MANIFEST) -> None:
        """Raise MpkirError unless all parts fit each other."""
        for buffer in self.buffers:
            _check_buffer(buffer, f"{where}: buffer {buffer.name!r}")
        names = {buffer.name for buffer in self.buffers}
        for role, name in self._named_roles():
            if name not in names:
                raise MpkirError(f"{role} is {name!r}, but no buffer has this name", where=where)
        if self.target.kind == "cuda" and not _CUDA_ARCH.fullmatch(self.target.arch):
            raise MpkirError(f"{self.target.arch!r} is no GPU architecture", where=where)
        if self.tokens_per_step < 1 or self.target.workers < 1:
            raise MpkirError("tokens_per_step and workers must be at least 1", where=where)
        self._check_ranks(where)

    def _check_ranks(self, where: str) -> None:
        if not 1 <= self.ranks <= MAX_RANKS:
            raise MpkirError(f"{self.ranks} ranks, expected 1 to {MAX_RANKS}", where=where)
        alone = self.ranks == 1
        if not 0 <= self.peer_events <= len(self.events) or (alone and self.peer_events):
            raise MpkirError(
                f"{self.peer_events} of {len(self.events)} events are peers', for {self.ranks} "
                "ranks",
                where=where,
            )
        for buffer in self.buffers:
            place = f"{where}: buffer {buffer.name!r}"
            if buffer.exchange and (alone or buffer.shape[:1] != (self.ranks,)):
                raise MpkirError(
                    f"{self.ranks} ranks exchange a buffer of shape {list(buffer.shape)}, expected "
                    "one row for each of several",
                    where=place,
                )
            for shard in (buffer.shard, *(part.shard for part in buffer.parts)):
                if shard is None:
                    continue
                for of in (shard.of, *(piece.of for piece in shard.pieces)):
                    if shard.of < 2 or of < 1 or self.ranks % of:
                        raise MpkirError(f"{self.ranks} ranks do not share {of} parts", where=place)

    def _named_roles(self) -> list[tuple[str, str]]:
        roles: list[tuple[str, str]] = []
        if self.signature is not None:
            roles += [("an input", name) for name in self.signature.inputs]
            roles += [("an output", name) for name in self.signature.outputs]
        if self.language is not None:
            roles += [("'tokens'", self.language.tokens), ("'logits'", self.language.logits)]
        return roles


def _check_buffer(buffer: Buffer, where: str) -> None:
    if buffer.dtype not in DTYPE_BYTES:
        raise MpkirError(
            f"unknown dtype {buffer.dtype!r}, expected one of {', '.join(DTYPE_BYTES)}", where=where
        )
    if any(size < 0 for size in buffer.shape):
        raise MpkirError(f"shape {list(buffer.shape)} has a negative size", where=where)
    if buffer.kind in ("weight", "constant") and not buffer.sources:
        raise MpkirError("weights and constants have a source", where=where)
    if buffer.kind in ("input", "output", "scratch") and buffer.sources:
        raise MpkirError("inputs, outputs and scratch have no source", where=where)
    if buffer.parts:
        _check_parts(buffer, where)
    if buffer.initial is not None and buffer.kind != "state":
        raise MpkirError("only a state has an initial value", where=where)
    if buffer.donated and buffer.kind != "state":
        raise MpkirError("only a state is donated", where=where)
    if buffer.exchange and buffer.kind != "scratch":
        raise MpkirError(f"only scratch is exchanged, not {buffer.kind}", where=where)
    _check_shards(buffer, where)
    if buffer.packed and (buffer.kind != "weight" or not is_packable(buffer.shape)):
        raise MpkirError(
            f"only a weight of whole blocks is packed, not {buffer.kind} {list(buffer.shape)}",
            where=where,
        )
    if (buffer.brief and (not buffer.flagged or buffer.dtype not in _BRIEF_DTYPES)) or (
        buffer.apart
        and (
            not buffer.flagged
            or prod(buffer.shape) % buffer.apart
            or buffer.apart * buffer.element_bytes > LINE_BYTES
        )
    ):
        raise MpkirError(
            "only whole groups of flagged elements lie apart or are brief", where=where
        )
    if buffer.planes and not (buffer.panels and buffer.brief and buffer.dtype == "float32"):
        raise MpkirError("only brief float32 in panels lies in planes", where=where)
    if buffer.panels and not _are_panels(buffer):
        raise MpkirError(
            f"{list(buffer.shape)} does not lie in panels of {buffer.panels} of {buffer.columns} "
            "columns: whole flagged tokens do, which lie nowhere else",
            where=where,
        )
    if buffer.flagged and (buffer.kind != "scratch" or buffer.dtype not in TAGGED_BYTES):
        raise MpkirError(
            f"only {', '.join(TAGGED_BYTES)} scratch is flagged, not {buffer.kind} {buffer.dtype}",
            where=where,
        )


def _are_panels(buffer: Buffer) -> bool:
    """Whether a buffer lies in panels as it says."""
    return (
        buffer.flagged
        and not buffer.exchange
        and not buffer.apart
        and buffer.panels > 0
        and buffer.columns > 0
        and buffer.columns % buffer.panels == 0
        and prod(buffer.shape) % buffer.columns == 0
    )


def _check_shards(buffer: Buffer, where: str) -> None:
    shards = [(part.rows, part.shard) for part in buffer.parts]
    if buffer.shard is not None:
        if buffer.kind in ("scratch", "input") or buffer.parts:
            raise MpkirError(
                "no scratch or input is a shard; of a joined weight each part is", where=where
            )
        shards.append((-1, buffer.shard))
    for rows, shard in shards:
        if shard is None:
            continue
        if not 0 <= shard.dim < len(buffer.shape):
            raise MpkirError(
                f"a shard of dimension {shard.dim} of a shape {list(buffer.shape)}", where=where
            )
        if any(piece.of < 1 or piece.size % piece.of for piece in shard.pieces):
            raise MpkirError("pieces that do not fall into equal parts", where=where)
        size = buffer.shape[shard.dim] if rows < 0 or shard.dim > 0 else rows
        held = sum(piece.size // piece.of for piece in shard.pieces)
        if shard.pieces and (buffer.kind not in ("weight", "constant") or held != size):
            raise MpkirError(
                f"parts of pieces, {held} indices, of a {buffer.kind} that has {size}", where=where
            )


def _check_parts(buffer: Buffer, where: str) -> None:
    if buffer.kind == "state" or buffer.source is not None:
        raise MpkirError("only weights and constants have parts, instead of a source", where=where)
    rows = [part.rows for part in buffer.parts]
    if min(rows) < 1 or buffer.shape[:1] != (sum(rows),):
        raise MpkirError(
            f"parts of {rows} rows do not fill the shape {list(buffer.shape)}", where=where
        )
    if buffer.packed and any(count % PACKED_ROWS for count in rows):
        raise MpkirError(f"packed parts are whole blocks, not {rows} rows", where=where)
