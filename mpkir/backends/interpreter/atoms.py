"""Memory in *atoms*: the largest sets of a buffer's elements that no task touches in part.

All tasks of a step touch the same boxes every step, so that facts about elements (who wrote them
last) can be kept for atoms, a few for each task, without loss. The memories of several ranks have
atoms alike, one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from xdsl.ir import SSAValue

from mpkir.backends.interpreter.families import Box, Family, part_of
from mpkir.backends.interpreter.memory import as_view
from mpkir.dialects import task
from mpkir.dialects.task import buffer_of

Ints: TypeAlias = npt.NDArray[np.int32]
_Boxes: TypeAlias = Iterable[tuple[str, SSAValue, Box]]
"""Buffer name, the buffer or view through which it is touched, the box."""


@dataclass(frozen=True)
class Touched:
    """The atoms that a task reads and writes, ascending."""

    reads: Ints
    writes: Ints


class Atoms:
    """The atoms of the buffers that some family writes; atoms are numbered from 0 through all
    buffers."""

    buffers: list[str]
    """The buffer of each atom."""

    def __init__(self, families: Sequence[Family], ranks: int = 1):
        """`families`: of one rank, of so many."""
        self.buffers = []
        self._ranks = ranks
        self._sizes: list[int] = []
        self._labels: dict[str, Ints] = {}
        for family in families:
            for name, value in zip(family.write_buffers, family.op.writes, strict=True):
                if name not in self._labels:
                    size = prod(task.memref_type_of(buffer_of(value).result).get_shape())
                    self._labels[name] = np.full(size, self._add(name, size), np.int32)
        self._split_all(families)
        self._each = len(self.buffers)
        """Atoms of one rank."""
        self.buffers *= ranks

    def touched(self, family: Family, index: int, rank: int = 0) -> Touched:
        """The atoms of one task of a rank."""
        reads = self._atoms_in(_reads(family, index), rank)
        return Touched(reads, self._atoms_in(_writes(family, index), rank))

    def _atoms_in(self, boxes: _Boxes, rank: int) -> Ints:
        found = [
            labels.reshape(-1) + self._each * memory
            for name, value, box in boxes
            if name in self._labels
            for memory, labels in self._places(self._labels[name], value, box, rank)
        ]
        return np.unique(np.concatenate(found)) if found else np.empty(0, np.int32)

    def _places(
        self, labels: Ints, value: SSAValue, box: Box, rank: int
    ) -> Iterator[tuple[int, Ints]]:
        """The labels of a box of a rank in every memory of which it has elements."""
        scatter = task.scatter_of(value)
        for memory in range(self._ranks) if scatter or task.is_mine(value) else (rank,):
            if scatter is None:
                yield memory, _labels_in(labels, value, box, rank)
            else:
                row = as_view(labels, scatter.source)[rank]
                yield memory, row[box.within(*part_of(scatter, memory)).inside]

    def _split_all(self, families: Sequence[Family]) -> None:
        seen: set[tuple[object, ...]] = set()
        for family in families:
            for index in range(family.size):
                for name, value, box in (*_reads(family, index), *_writes(family, index)):
                    sent = task.is_mine(value) or task.scatter_of(value) is not None
                    key = (name, value.type, sent, *((s.start, s.stop) for s in box.inside))
                    if name in self._labels and key not in seen:
                        seen.add(key)
                        for rank in range(self._ranks if sent else 1):
                            places = self._places(self._labels[name], value, box, rank)
                            # Memories are alike: only parts differ from one to another.
                            for labels in {_place_of(each): each for _, each in places}.values():
                                self._split(name, labels)

    def _split(self, name: str, labels: Ints) -> None:
        """Cut every atom that this box (a view of its labels) touches in part."""
        present, counts = np.unique(labels, return_counts=True)
        for atom, count in zip(present.tolist(), counts.tolist(), strict=True):
            if count < self._sizes[atom]:
                self._sizes[atom] -= count
                labels[labels == atom] = self._add(name, count)

    def _add(self, name: str, size: int) -> int:
        self.buffers.append(name)
        self._sizes.append(size)
        return len(self.buffers) - 1


def _place_of(labels: Ints) -> tuple[int, tuple[int, ...]]:
    return labels.__array_interface__["data"][0], labels.shape


def _labels_in(labels: Ints, value: SSAValue, box: Box, rank: int) -> Ints:
    """A view of the labels of the elements of a box, as a rank sees it, each element once."""
    strides, _ = task.layout_of(task.memref_type_of(value))
    once = (
        part if stride else slice(part.start, min(part.start + 1, part.stop))
        for part, stride in zip(box.inside, strides, strict=True)
    )
    return as_view(labels, value, rank)[tuple(once)]


def _reads(family: Family, index: int) -> Iterator[tuple[str, SSAValue, Box]]:
    return zip(family.read_buffers, family.op.reads, family.access(index).reads, strict=True)


def _writes(family: Family, index: int) -> Iterator[tuple[str, SSAValue, Box]]:
    return zip(family.write_buffers, family.op.writes, family.access(index).writes, strict=True)
