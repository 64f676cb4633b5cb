"""Which families are over before which others begin, by the data that flows between them.

Whoever touches what another has written, or writes what it touches, waits for it. A wait of all of
a family's tasks for all of another's is passed on along chains: if every task of `a` comes before
some task of `b`, and all of `b` before all of `c`, all of `a` is before all of `c`. Facts are
sufficient, not necessary: they come from the affine boxes alone, in time that follows the number of
families.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided
from xdsl.ir.affine import (
    AffineBinaryOpExpr,
    AffineBinaryOpKind,
    AffineConstantExpr,
    AffineDimExpr,
    AffineExpr,
)

from mpkir.analysis.families import Access, Family, elements_among_all
from mpkir.dialects.task import BufferKind, BufferOp


@dataclass(frozen=True)
class Reach:
    """How much of one buffer a family's reads, or its writes, touch."""

    every_task: bool
    """Each task touches some element."""
    covers: bool
    """The tasks together touch every element."""
    whole: bool
    """Each task touches every element."""


def _linear(expr: AffineExpr) -> tuple[int | None, int] | None:
    """An offset as (grid dimension or None, factor): d3 * 16, d3, or a constant; else None."""
    match expr:
        case AffineConstantExpr():
            return None, expr.value
        case AffineDimExpr():
            return expr.position, 1
        case AffineBinaryOpExpr(
            kind=AffineBinaryOpKind.Mul,
            lhs=AffineDimExpr() as dim,
            rhs=AffineConstantExpr() as factor,
        ):
            return dim.position, factor.value
        case _:
            return None


def reach_in_view(access: Access, grid: Sequence[int]) -> Reach:
    """How much of the elements that an access's view shows the tasks of a grid touch."""
    every, covers, whole = True, True, True
    used: set[int] = set()
    for expr, size, extent in zip(
        access.box.offsets.data.results, access.box.shape, access.shape, strict=True
    ):
        form = _linear(expr)
        if form is None:
            return Reach(False, False, False)
        axis, factor = form
        if axis is None:
            every &= factor < extent
            covers &= factor == 0 and size >= extent
            whole &= factor == 0 and size >= extent
            continue
        last = (grid[axis] - 1) * factor
        every &= 0 <= last < extent
        covers &= axis not in used and 0 <= factor <= size and last + size >= extent
        whole &= last == 0 and size >= extent
        used.add(axis)
    return Reach(every, covers, whole)


def reach_of(buffer: BufferOp, accesses: Sequence[Access], grid: Sequence[int]) -> Reach:
    """How much of a buffer a family touches by these accesses, which may see it in parts."""
    reaches = [reach_in_view(access, grid) for access in accesses]
    every = any(reach.every_task for reach in reaches)
    covering = [a for a, reach in zip(accesses, reaches, strict=True) if reach.covers]
    whole = [a for a, reach in zip(accesses, reaches, strict=True) if reach.whole]
    return Reach(every, _fill(buffer, covering), _fill(buffer, whole))


def _fill(buffer: BufferOp, accesses: Sequence[Access]) -> bool:
    """Whether the views of these accesses show every element of a buffer."""
    size = elements_among_all(buffer)
    distinct = [_distinct(access) for access in accesses]
    if any(count == size for count in distinct):
        return True
    # Parts are put together for activations only: they are small.
    if sum(distinct) < size or buffer.kind.data is not BufferKind.SCRATCH:
        return False
    seen = np.zeros(size, bool)
    for access in accesses:
        as_strided(seen[access.offset :], access.shape, access.strides)[...] = True
    return bool(seen.all())


def _distinct(access: Access) -> int:
    """Number of elements that a view shows; a stride of 0 repeats them."""
    return prod(n for n, stride in zip(access.shape, access.strides, strict=True) if stride)


@dataclass(frozen=True)
class Precedence:
    """For each family, by number, the families all of whose tasks come after all of its own."""

    after: tuple[int, ...]
    """Bit sets of family numbers."""

    def common(self, families: Iterable[int]) -> int:
        """The families that come after all of these, as a bit set."""
        result = -1
        for family in families:
            result &= self.after[family]
        return result


@dataclass(frozen=True)
class _Edge:
    later: int
    some_task_later: bool
    """Each task of the earlier family is before some task of the later one."""
    some_task_earlier: bool
    """Each task of the later family is after some task of the earlier one."""
    all_tasks: bool


def precedence_of(families: Sequence[Family]) -> Precedence:
    """What follows from the data flow of families in program order.

    Who reads a part of what ranks scatter comes after some rank's tasks that write it; taken for
    after the own rank's too, so that memory which is shared across it may need an event more.
    """
    edges: list[list[_Edge]] = [[] for _ in families]
    touched: dict[BufferOp, list[tuple[int, Reach | None, Reach | None]]] = {}
    for family in families:
        by_buffer: dict[BufferOp, tuple[list[Access], list[Access]]] = {}
        for access in family.accesses:
            by_buffer.setdefault(access.buffer, ([], []))[access.is_write].append(access)
        for buffer, (reads, writes) in by_buffer.items():
            if buffer.kind.data is BufferKind.WEIGHT:
                continue
            read, written = (
                reach_of(buffer, each, family.op.grid) if each else None for each in (reads, writes)
            )
            for number, earlier_read, earlier_written in touched.get(buffer, ()):
                for a, b in (
                    (earlier_written, read),
                    (earlier_read, written),
                    (earlier_written, written),
                ):
                    if a is not None and b is not None:
                        edges[number].append(_edge(family.number, a, b))
            touched.setdefault(buffer, []).append((family.number, read, written))
    return Precedence(_close(edges))


def _edge(later: int, a: Reach, b: Reach) -> _Edge:
    all_tasks = (a.whole and b.every_task) or (b.whole and a.every_task)
    return _Edge(later, b.covers and a.every_task, a.covers and b.every_task, all_tasks)


def _close(edges: Sequence[Sequence[_Edge]]) -> tuple[int, ...]:
    """Follow chains: any number of edges that reach some task, one that reaches all, any number
    from some task on.
    """
    after = [0] * len(edges)
    reached = [1 << number for number in range(len(edges))]
    """Families each task of which follows some task of this one; itself, too."""
    for number in reversed(range(len(edges))):
        for edge in edges[number]:
            if edge.all_tasks:
                after[number] |= reached[edge.later]
            if edge.all_tasks or edge.some_task_later:
                after[number] |= after[edge.later]
            if edge.all_tasks or edge.some_task_earlier:
                reached[number] |= reached[edge.later]
    return tuple(after)
