"""Where the elements of a value lie in its buffer, through any chain of views, and which operands
of an operator may lie so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from math import prod

from xdsl.ir import Operation, SSAValue

from mpkir.dialects import tensor
from mpkir.dialects.task import ViewOp, buffer_of, layout_of, memref_type_of, row_major


@dataclass(frozen=True)
class Layout:
    """Element (i, j, ..) of a value of this shape is its buffer's element
    `offset + i * strides[0] + j * strides[1] + ..`.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @staticmethod
    def of(place: SSAValue) -> Layout:
        """The layout of a buffer or a view of one."""
        type = memref_type_of(place)
        return Layout(tuple(type.get_shape()), *layout_of(type))

    @staticmethod
    def dense(shape: Sequence[int]) -> Layout:
        """Row-major from the buffer's first element on."""
        return Layout(tuple(shape), row_major(shape))

    @property
    def is_plain(self) -> bool:
        """Whether it is row-major from the buffer's first element on."""
        return self.offset == 0 and self.strides == row_major(self.shape)

    @property
    def has_rows(self) -> bool:
        """Whether neighbours along the last dimension are neighbours in memory."""
        return not self.shape or self.shape[-1] == 1 or self.strides[-1] == 1

    def transposed(self, permutation: Sequence[int]) -> Layout:
        """Dimension d is this one's dimension `permutation[d]`."""
        return _layout(
            [self.shape[p] for p in permutation],
            [self.strides[p] for p in permutation],
            self.offset,
        )

    def sliced(self, dim: int, start: int, length: int, step: int) -> Layout:
        """Every `step`-th element along `dim`, `length` of them from `start` on."""
        shape, strides = list(self.shape), list(self.strides)
        shape[dim], strides[dim] = length, strides[dim] * step
        return _layout(shape, strides, self.offset + start * self.strides[dim])

    def broadcast(self, shape: Sequence[int]) -> Layout:
        """NumPy's broadcast: a repeated dimension has stride 0."""
        lead = len(shape) - len(self.shape)
        strides = [0] * lead
        for own, stride, size in zip(self.shape, self.strides, shape[lead:], strict=True):
            strides.append(stride if own == size else 0)
        return _layout(shape, strides, self.offset)

    def reshaped(self, shape: Sequence[int]) -> Layout | None:
        """The same elements in row-major order of indices under another shape; None if strides
        cannot say so."""
        runs: list[tuple[int, int]] = []
        """Dimensions that are one in memory: number of elements, their distance."""
        for size, stride in zip(self.shape, self.strides, strict=True):
            if size == 1:
                continue
            if runs and runs[-1][1] == size * stride:
                runs[-1] = (runs[-1][0] * size, stride)
            else:
                runs.append((size, stride))
        strides: list[int] = []
        count, stride = 1, 0
        for size in reversed(shape):
            if size == 1:
                strides.append(0)
                continue
            if count == 1:
                count, stride = runs.pop()
            if count % size:
                return None
            strides.append(stride)
            count, stride = count // size, stride * size
        return _layout(shape, strides[::-1], self.offset)


def _layout(shape: Sequence[int], strides: Sequence[int], offset: int) -> Layout:
    """A layout in which dimensions of size 1 have the strides that a dense array gives them."""
    result: list[int] = []
    inner = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        result.append(inner if size == 1 else stride)
        inner = result[-1] * size
    return Layout(tuple(shape), tuple(reversed(result)), offset)


VIEWS = (tensor.ReshapeOp, tensor.TransposeOp, tensor.SliceOp, tensor.BroadcastOp)
"""Operators whose result may be their operand seen otherwise."""


def through(
    op: tensor.ReshapeOp | tensor.TransposeOp | tensor.SliceOp | tensor.BroadcastOp, layout: Layout
) -> Layout | None:
    """Where the result lies as a view of an operand that lies so; None if no strides say it."""
    match op:
        case tensor.ReshapeOp():
            return layout.reshaped(tensor.shape_of(op.result))
        case tensor.TransposeOp():
            return layout.transposed([int(p) for p in op.permutation.get_values()])
        case tensor.SliceOp():
            dim = op.dim.value.data
            length = tensor.shape_of(op.result)[dim]
            return layout.sliced(dim, op.start.value.data, length, op.step.value.data)
        case tensor.BroadcastOp():
            return layout.broadcast(tensor.shape_of(op.result))


def view_of(place: SSAValue, layout: Layout) -> ViewOp:
    """The view of a buffer, or of a view of it, under a layout."""
    return ViewOp(place, layout.shape, layout.strides, layout.offset)


def is_whole(place: SSAValue) -> bool:
    """Whether a value is all of its buffer in the buffer's order."""
    layout = Layout.of(place)
    size = prod(memref_type_of(buffer_of(place).result).get_shape())
    return layout.is_plain and prod(layout.shape) == size


class Need(Enum):
    """What an operator's code asks of the layout of an operand."""

    PLAIN = auto()
    """It steps through memory: row-major from the buffer's first element on."""
    ROWS = auto()
    """It reads vectors: rows are contiguous."""
    NOTHING = auto()
    """It asks for each element by its indices."""


_NEEDS: Mapping[type[Operation], Mapping[str, Need]] = {
    tensor.ArgmaxJoinOp: {"value": Need.NOTHING, "index": Need.NOTHING},
    tensor.ArgmaxMergeOp: {"value": Need.NOTHING, "index": Need.NOTHING},
    tensor.ArgmaxOp: {"x": Need.NOTHING},
    tensor.ArgmaxPartialOp: {"x": Need.NOTHING},
    tensor.AttentionOp: dict.fromkeys(("q", "k", "v"), Need.NOTHING),
    tensor.AttentionSplitOp: dict.fromkeys(("q", "k", "v"), Need.NOTHING),
    tensor.AttentionJoinOp: dict.fromkeys(("q", "k", "v"), Need.NOTHING),
    tensor.BroadcastOp: {"source": Need.NOTHING},
    tensor.CacheAppendOp: {"new": Need.NOTHING},
    tensor.ConcatOp: {"sources": Need.NOTHING},
    tensor.ElementwiseOp: {"inputs": Need.NOTHING},
    tensor.EmbeddingOp: {"table": Need.NOTHING, "ids": Need.NOTHING},
    tensor.LayerNormOp: dict.fromkeys(("x", "weight", "bias"), Need.NOTHING),
    tensor.LinearOp: {
        "x": Need.ROWS,
        "prologue_args": Need.NOTHING,
        "epilogue_args": Need.NOTHING,
    },
    tensor.MatmulOp: {"lhs": Need.NOTHING, "rhs": Need.NOTHING},
    tensor.ReduceOp: {"x": Need.NOTHING},
    tensor.ReshapeOp: {"source": Need.NOTHING},
    tensor.RmsNormOp: {"x": Need.NOTHING, "weight": Need.NOTHING},
    tensor.RotaryOp: {"x": Need.NOTHING},
    tensor.SdpaOp: {"q": Need.NOTHING, "k": Need.ROWS, "v": Need.ROWS, "mask": Need.NOTHING},
    tensor.SliceOp: {"source": Need.NOTHING},
    tensor.SoftmaxOp: {"x": Need.NOTHING},
    tensor.TransposeOp: {"source": Need.NOTHING},
}
"""By operator and operand; what is not here needs plain operands."""


def can_read(op: Operation, value: SSAValue, layout: Layout) -> bool:
    """Whether the operator's code can read an operand that lies so."""
    if layout.is_plain:
        return True
    stated: list[Need] = []
    for name, need in _NEEDS.get(type(op), {}).items():
        group: SSAValue | Sequence[SSAValue] | None = getattr(op, name)
        operands = (group,) if isinstance(group, SSAValue) else group or ()
        stated += [need for operand in operands if operand is value]
    uses = sum(operand is value for operand in op.operands)
    if len(stated) != uses or Need.PLAIN in stated:
        return False
    return Need.ROWS not in stated or layout.has_rows


def misplaced(op: Operation, places: Mapping[SSAValue, SSAValue]) -> Iterator[SSAValue]:
    """The operands that do not lie as the operator needs them."""
    for value in dict.fromkeys(op.operands):
        place = places.get(value)
        if place is not None and not can_read(op, value, Layout.of(place)):
            yield value
