"""What ranks write into each other's memory part by part; what they write into all is in
`buffers` (`mpk_task.mine`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from xdsl.dialects.builtin import I64, IntegerAttr, MemRefType, i64
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from mpkir.dialects.task.buffers import BufferOp, MineOp, layout_of, memref_type_of


@dataclass(frozen=True)
class Parts:
    """How a value is divided among ranks: into `count` equal parts of `size` along `dim`.

    Rank r of R has part r * count // R, so that neighbours have the same where there are fewer.
    """

    dim: int
    size: int
    count: int


@irdl_op_definition
class ScatterOp(IRDLOperation):
    """A value of which each rank gets its part along `dim`: into the row of the own rank of an
    exchange buffer in *that* rank's memory. Nobody reads through it.

    The buffer's rows have the shape of a part. There are as many parts as the value is longer than
    a row, at most one for each rank; rank r of R gets number r * parts // R. What is written so is
    written in no other way.

    ```mlir
    %all = mpk_task.scatter %sums dim 1 : memref<4x1x1024xf32> to memref<1x4096xf32>
    ```
    """

    name = "mpk_task.scatter"

    source = operand_def(MemRefType.constr())
    dim = prop_def(IntegerAttr[I64])
    result = result_def(MemRefType.constr())

    traits = traits_def(Pure())

    assembly_format = "$source `dim` $dim attr-dict `:` type($source) `to` type($result)"

    def __init__(self, source: SSAValue, dim: int, parts: int):
        type = memref_type_of(source)
        shape = [*type.get_shape()[1:]]
        shape[dim] *= parts
        super().__init__(
            operands=[source],
            properties={"dim": IntegerAttr(dim, i64)},
            result_types=[MemRefType(type.get_element_type(), shape)],
        )

    @property
    def parts(self) -> Parts:
        """How the value is divided."""
        dim = self.dim.value.data
        size = memref_type_of(self.source).get_shape()[1 + dim]
        return Parts(dim, size, memref_type_of(self.result).get_shape()[dim] // size)

    def verify_(self) -> None:
        owner, type = self.source.owner, memref_type_of(self.source)
        if not isinstance(owner, BufferOp) or owner.exchange is None:
            raise VerifyException("what is scattered goes into an exchange buffer")
        (ranks, *part), whole = type.get_shape(), list(memref_type_of(self.result).get_shape())
        dim = self.dim.value.data
        if not 0 <= dim < len(part):
            raise VerifyException(f"scatter along dimension {dim} of a row of {type}")
        count = whole[dim] // part[dim] if dim < len(whole) else 0
        part[dim] *= count
        if count < 2 or ranks % count or self.result.type != MemRefType(type.element_type, part):
            raise VerifyException(
                f"rows of {type} are no parts of {self.result.type} along dimension {dim}, of "
                f"which {ranks} ranks have equally many"
            )
        for use in self.source.uses:
            other = use.operation
            if isinstance(other, MineOp) or (
                isinstance(other, ScatterOp)
                and (other.dim, other.result.type) != (self.dim, self.result.type)
            ):
                raise VerifyException(f"{owner.sym} is written in two ways, of which one scatters")


def scatter_of(value: SSAValue) -> ScatterOp | None:
    """The op by which what is written to a memref value is scattered, if it is."""
    return value.owner if isinstance(value.owner, ScatterOp) else None


def scattered(buffer: BufferOp) -> ScatterOp | None:
    """The op by which all that is written into a buffer is scattered, if it is."""
    users = (use.operation for use in buffer.result.uses)
    return next((op for op in users if isinstance(op, ScatterOp)), None)


def layout_among_all(
    scatter: ScatterOp, type: MemRefType[Attribute]
) -> tuple[tuple[int, ...], tuple[int, ...], int] | None:
    """Shape, strides and offset of what the readers of *all* ranks see of a scattered buffer by a
    view of this type, in an array of all that was written: [ranks, *value].

    Its first dimension says whose part. None where the view is no view of that array: a dimension
    of it goes on behind the end of a part.
    """
    parts = scatter.parts
    row = memref_type_of(scatter.source).get_shape()[1:]
    block = parts.size * prod(row[parts.dim + 1 :])
    """Elements that lie together in the value too."""
    strides, offset = layout_of(type)
    shape = tuple(type.get_shape())
    within = offset % block
    result: list[int] = []
    for size, stride in zip(shape, strides, strict=True):
        if stride % block == 0 or size == 1:
            result.append(stride * parts.count if stride % block == 0 else stride)
        else:
            within += (size - 1) * stride
            result.append(stride)
    if within >= block:
        return None
    first = offset // block * block * parts.count + offset % block
    return (parts.count, *shape), (block, *result), first


__all__ = ["Parts", "ScatterOp", "layout_among_all", "scatter_of", "scattered"]
