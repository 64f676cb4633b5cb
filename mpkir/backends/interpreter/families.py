"""A family of tasks, ready to run: its body as a kernel, and the slices that its tasks touch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from mpkir.backends.interpreter.kernels import Scalars, block_kernel
from mpkir.backends.interpreter.memory import Memory, as_view
from mpkir.backends.interpreter.values import Array
from mpkir.dialects import task
from mpkir.dialects import tensor as t

Slices = tuple[slice, ...]


@dataclass(frozen=True)
class Box:
    """The box of a task in an array: what lies inside the array, and where that is in the tile."""

    inside: Slices
    """Of the array."""
    in_tile: Slices | None
    """None where the whole tile lies inside the array."""
    tile: tuple[int, ...]

    @classmethod
    def at(cls, offsets: Sequence[int], sizes: Sequence[int], shape: Sequence[int]) -> Box:
        """The box at `offsets`, cut at the bounds of an array of this shape."""
        inside: list[slice] = []
        in_tile: list[slice] = []
        for offset, size, bound in zip(offsets, sizes, shape, strict=True):
            low, high = max(offset, 0), max(min(offset + size, bound), 0)
            low = min(low, high)
            inside.append(slice(low, high))
            in_tile.append(slice(low - offset, high - offset))
        whole = all(s.stop - s.start == size for s, size in zip(in_tile, sizes, strict=True))
        return cls(tuple(inside), None if whole else tuple(in_tile), tuple(sizes))

    def within(self, dim: int, begin: int, size: int) -> Box:
        """What of the box lies in `size` indices of a dimension from `begin` on, as a box of an
        array that has only those."""
        own = self.inside[dim]
        low = min(max(own.start, begin), begin + size)
        high = max(min(own.stop, begin + size), low)
        in_tile = list(self.in_tile or (slice(0, n) for n in self.tile))
        shift = in_tile[dim].start - own.start
        in_tile[dim] = slice(low + shift, high + shift)
        inside = list(self.inside)
        inside[dim] = slice(low - begin, high - begin)
        return Box(tuple(inside), tuple(in_tile), self.tile)

    def read(self, array: Array, outside: float) -> Array:
        """The tile, filled up where it reaches over the array's end; it may be a view."""
        if self.in_tile is None:
            return array[self.inside]
        tile = np.full(self.tile, outside, array.dtype)
        tile[self.in_tile] = array[self.inside]
        return tile

    def write(self, array: Array, tile: Array) -> None:
        """Store the part of a tile that lies inside the array."""
        array[self.inside] = tile if self.in_tile is None else tile[self.in_tile]


@dataclass(frozen=True)
class Access:
    """The boxes of one task: one for each read and each written buffer."""

    coordinates: tuple[int, ...]
    reads: tuple[Box, ...]
    writes: tuple[Box, ...]


class Family:
    """A `mpk_task.grid` bound to arrays: those of a rank, and those of all, whose `memories` are
    given in their order, for what it writes into them."""

    def __init__(self, op: task.GridOp, memory: Memory, memories: Sequence[Memory] = ()):
        self.op = op
        self.name = op.sym_name.data
        self.size = op.size
        self.read_buffers = tuple(task.buffer_of(value).sym.data for value in op.reads)
        self.write_buffers = tuple(task.buffer_of(value).sym.data for value in op.writes)
        self.reads = tuple(memory.view(value) for value in op.reads)
        self._memory, self._memories = memory, memories or (memory,)
        self._shapes = tuple(
            tuple(tuple(task.memref_type_of(value).get_shape()) for value in each)
            for each in (op.reads, op.writes)
        )
        self._outside = tuple(map(_outside, op.body.block.args))
        self._boxes = (op.read_boxes, op.write_boxes)
        self._kernel = block_kernel(op.body.block)
        self._accesses: list[Access | None] = [None] * self.size

    @cached_property
    def _targets(self) -> list[tuple[int, Target]]:
        """Where writes go: their numbers, and arrays."""
        return [
            (number, target)
            for number, value in enumerate(self.op.writes)
            for target in targets_of(value, self._memory, self._memories)
        ]

    def label(self, index: int) -> str:
        """A task's name for a message, e.g. "l3.gate_up[5]"."""
        return f"{self.name}[{index}]"

    def access(self, index: int) -> Access:
        """What the task with this row-major index touches."""
        if (found := self._accesses[index]) is None:
            coordinates = self.op.coordinates(index)
            reads, writes = (
                tuple(
                    Box.at(box.offsets_at(coordinates), box.shape, shape)
                    for box, shape in zip(boxes, shapes, strict=True)
                )
                for boxes, shapes in zip(self._boxes, self._shapes, strict=True)
            )
            found = self._accesses[index] = Access(coordinates, reads, writes)
        return found

    def run(self, index: int, scalars: Scalars) -> None:
        """Execute one task: slice, evaluate, store."""
        access = self.access(index)
        scalars.coordinates = access.coordinates
        tiles = [
            box.read(array, outside)
            for box, array, outside in zip(access.reads, self.reads, self._outside, strict=True)
        ]
        results = self._kernel(scalars, tiles)
        if len(results) > 1:
            # One result may be a view of a buffer that an earlier one is about to overwrite.
            results = tuple(r if r.base is None else r.copy() for r in results)
        for number, target in self._targets:
            target.box_of(access.writes[number]).write(target.array, results[number])


@dataclass(frozen=True)
class Target:
    """An array that a task writes: one that has the whole value, or a rank's part of it."""

    array: Array
    part: tuple[int, int, int] | None = None
    """The dimension along which it is a part, where that begins, how long it is."""

    def box_of(self, box: Box) -> Box:
        """What of a box of the value is in the array."""
        return box if self.part is None else box.within(*self.part)


def targets_of(value: SSAValue, memory: Memory, memories: Sequence[Memory]) -> Iterator[Target]:
    """Where what a rank writes to a memref value goes in these memories."""
    name = task.buffer_of(value).sym.data
    if (scatter := task.scatter_of(value)) is not None:
        for other in memories:
            array = as_view(other.arrays[name], scatter.source, 0)[memory.rank]
            yield Target(array, part_of(scatter, other.rank))
    elif task.is_mine(value):
        for other in memories:
            yield Target(as_view(other.arrays[name], value, memory.rank))
    else:
        yield Target(memory.view(value))


def part_of(scatter: task.ScatterOp, rank: int) -> tuple[int, int, int]:
    """Which part of a scattered value a rank gets: along which dimension, from where, how long."""
    parts, ranks = scatter.parts, task.memref_type_of(scatter.source).get_shape()[0]
    return parts.dim, rank * parts.count // ranks * parts.size, parts.size


def _outside(tile: SSAValue) -> float:
    """What a tile holds beyond its buffer's end: zeros, but nothing that an argmax would choose."""
    chosen = any(
        isinstance(use.operation, t.ArgmaxPartialOp | t.ArgmaxJoinOp) and use.index == 0
        for use in tile.uses
    )
    return -np.inf if chosen else 0.0


def families_of(
    module: ModuleOp, memory: Memory, memories: Sequence[Memory] = ()
) -> tuple[Family, ...]:
    """Every family of a module, in program order, on a rank's memory (`memories`: all ranks')."""
    grids = (op for op in module.walk() if isinstance(op, task.GridOp))
    return tuple(Family(op, memory, memories) for op in grids)


def tokens_per_step(module: ModuleOp) -> int:
    """By how much the position advances in a step: the length of what `mpk_tensor.position`
    gives."""
    lengths = [t.shape_of(op.result)[0] for op in module.walk() if isinstance(op, t.PositionOp)]
    return max(lengths, default=1)
