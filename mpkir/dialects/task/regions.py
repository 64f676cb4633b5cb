"""Regions: the box of a buffer that each task of a grid touches."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import (
    I64,
    AffineMapAttr,
    DenseArrayBase,
    i64,
)
from xdsl.ir import (
    ParametrizedAttribute,
)
from xdsl.ir.affine import AffineExpr, AffineMap
from xdsl.irdl import (
    irdl_attr_definition,
    param_def,
)
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException


@irdl_attr_definition
class RegionAttr(ParametrizedAttribute):
    """The box of a buffer that a task touches: offsets as a function of the grid index, constant
    sizes.

    A box that reaches over the buffer's end is cut there: reads find zeros outside (an argmax finds
    no candidate), writes outside are dropped.

    ```mlir
    #mpk_task.region<affine_map<(d0) -> (d0 * 16, 0)>, [16, 2048]>
    ```
    """

    name = "mpk_task.region"

    offsets: AffineMapAttr = param_def()
    sizes: DenseArrayBase[I64] = param_def()

    def __init__(
        self, offsets: AffineMap | AffineMapAttr, sizes: Sequence[int] | DenseArrayBase[I64]
    ):
        super().__init__(
            AffineMapAttr(offsets) if isinstance(offsets, AffineMap) else offsets,
            sizes
            if isinstance(sizes, DenseArrayBase)
            else DenseArrayBase.from_list(i64, list(sizes)),
        )

    @classmethod
    def whole(cls, shape: Sequence[int], grid_rank: int) -> RegionAttr:
        """The region that covers a buffer of this shape, for every task of a grid."""
        zeros = tuple(AffineExpr.constant(0) for _ in shape)
        return cls(AffineMap(grid_rank, 0, zeros), shape)

    def behind(self, size: int) -> RegionAttr:
        """The same box in a buffer with one dimension more, the first, all `size` of it."""
        map = self.offsets.data
        zero = AffineExpr.constant(0)
        offsets = AffineMap(map.num_dims, map.num_symbols, (zero, *map.results))
        return RegionAttr(offsets, (size, *self.shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the box."""
        return tuple(int(size) for size in self.sizes.get_values())

    def offsets_at(self, coordinates: Sequence[int]) -> tuple[int, ...]:
        """Where the box of the task at these grid coordinates begins."""
        return tuple(self.offsets.data.eval(list(coordinates), []))

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[AffineMapAttr | DenseArrayBase[I64]]:
        with parser.in_angle_brackets():
            offsets = parser.parse_attribute()
            parser.parse_punctuation(",")
            sizes = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_integer)
        if not isinstance(offsets, AffineMapAttr):
            parser.raise_error("expected an affine map of offsets")
        return (offsets, DenseArrayBase.from_list(i64, sizes))

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_attribute(self.offsets)
            printer.print_string(", [")
            printer.print_list(self.shape, lambda size: printer.print_string(str(size)))
            printer.print_string("]")

    def verify(self) -> None:
        if len(self.offsets.data.results) != len(self.shape):
            raise VerifyException("a region has one offset for each size")
        if any(size < 1 for size in self.shape):
            raise VerifyException(f"sizes of a region are positive, got {self.shape}")
