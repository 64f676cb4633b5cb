"""The task families of a module in their order, and which buffers' boxes their tasks touch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir.affine import (
    AffineBinaryOpExpr,
    AffineBinaryOpKind,
    AffineConstantExpr,
    AffineDimExpr,
    AffineExpr,
    AffineMap,
)

from mpkir.dialects import task
from mpkir.dialects.task import buffer_of

Ints = npt.NDArray[np.int64]

WORKERS = "mpk.workers"
"""Attribute of a scheduled module: how many workers run it."""


@dataclass(frozen=True, eq=False)
class Access:
    """One operand of a family: its buffer, the view through which it is seen, the boxes touched.

    Element (i, j, ..) of the view is element `offset + i * strides[0] + j * strides[1] + ..` of the
    buffer; a stride of 0 repeats elements. What is written through `mpk_task.mine` has one
    dimension more, the first, of which a task touches everything: all ranks' tasks together write
    all rows, in every memory.

    Where that is a part of a value for each rank (`mpk_task.scatter`), the ranks' memories together
    are one array [ranks, *value], and elements are numbered in it: all ranks' tasks together write
    their box in all rows of it, and read theirs in all parts of it.
    """

    buffer: task.BufferOp
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    box: task.RegionAttr
    is_write: bool
    is_mine: bool = False
    """Written in every rank's memory."""
    shared_by: int = 1
    """Of so many elements that all ranks' tasks with a number touch a rank's own touches one."""


def crosses_ranks(earlier: Access, later: Access) -> bool:
    """Whether two accesses of a buffer that conflict do so on all ranks, each with each: what one
    writes into all memories is read in all. Two writes are each into the own row.
    """
    is_exchange = earlier.buffer.exchange is not None
    return is_exchange and not (earlier.is_write and later.is_write)


@dataclass(frozen=True, eq=False)
class Family:
    """A grid of tasks and its place in the module."""

    number: int
    op: task.GridOp
    accesses: tuple[Access, ...]

    @property
    def name(self) -> str:
        """The family's symbol."""
        return self.op.sym_name.data

    @cached_property
    def size(self) -> int:
        """Number of tasks."""
        return self.op.size

    @cached_property
    def coordinates(self) -> Ints:
        """Grid coordinates of every task, [tasks, grid rank]."""
        return coordinates_of(self.op.grid)


def coordinates_of(grid: tuple[int, ...]) -> Ints:
    """Row-major coordinates of all points of a grid, [points, rank]."""
    return np.indices(grid, dtype=np.int64).reshape(len(grid), -1).T


def evaluate(map: AffineMap, coordinates: Ints) -> Ints:
    """An affine map at many points: [points, dims] to [points, results]."""
    columns = [_evaluate(expression, coordinates) for expression in map.results]
    return np.stack(columns, axis=1) if columns else np.zeros((len(coordinates), 0), np.int64)


def _evaluate(expression: AffineExpr, coordinates: Ints) -> Ints:
    match expression:
        case AffineConstantExpr():
            return np.full(len(coordinates), expression.value, np.int64)
        case AffineDimExpr():
            return coordinates[:, expression.position]
        case AffineBinaryOpExpr():
            lhs = _evaluate(expression.lhs, coordinates)
            rhs = _evaluate(expression.rhs, coordinates)
            match expression.kind:
                case AffineBinaryOpKind.Add:
                    return lhs + rhs
                case AffineBinaryOpKind.Mul:
                    return lhs * rhs
                case AffineBinaryOpKind.Mod:
                    return lhs % rhs
                case AffineBinaryOpKind.FloorDiv:
                    return lhs // rhs
                case AffineBinaryOpKind.CeilDiv:
                    return -(-lhs // rhs)
        case _:
            raise ValueError(f"{expression} has symbols; the maps of a grid have only dimensions")


def _accesses(op: task.GridOp) -> Iterator[Access]:
    reads, writes = tuple(op.reads), tuple(op.writes)
    for number, (value, box) in enumerate(zip((*reads, *writes), op.boxes.data, strict=True)):
        type = task.memref_type_of(value)
        strides, offset = task.layout_of(type)
        buffer, shape, mine = buffer_of(value), type.get_shape(), task.is_mine(value)
        share = 1
        if (scatter := task.scattered(buffer)) is not None:
            if number >= len(reads):
                share = task.memref_type_of(buffer.result).get_shape()[0]
                shape = (share, *shape)
                strides, offset = task.row_major(shape), 0
            else:
                among = task.layout_among_all(scatter, type)
                assert among is not None, "the verifier of grids has looked"
                shape, strides, offset = among
                share = scatter.parts.count
            box = box.behind(share)
        elif mine:
            ranks = task.memref_type_of(buffer.result).get_shape()[0]
            shape, strides = (ranks, *shape), (task.row_elements(buffer), *strides)
            box = box.behind(ranks)
        yield Access(buffer, shape, strides, offset, box, number >= len(reads), mine, share)


def elements_among_all(buffer: task.BufferOp) -> int:
    """In how many elements accesses of a buffer are numbered: its own, or all parts that ranks have
    of what is scattered."""
    scatter = task.scattered(buffer)
    size = prod(task.memref_type_of(buffer.result).get_shape())
    return size if scatter is None else size * scatter.parts.count


def families_of(module: ModuleOp) -> tuple[Family, ...]:
    """All families of a module in program order."""
    grids = (op for op in module.walk() if isinstance(op, task.GridOp))
    return tuple(Family(number, op, tuple(_accesses(op))) for number, op in enumerate(grids))
