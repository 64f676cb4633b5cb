"""How a tensor of the model is divided among ranks."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import IntAttr
from xdsl.ir import Attribute, ParametrizedAttribute
from xdsl.irdl import irdl_attr_definition, param_def
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from mpkir.dialects.mesh import shard_of


@irdl_attr_definition
class ShardAttr(ParametrizedAttribute):
    """One of `of` equal parts along dimension `dim`: rank r of R has part r * of // R, so that
    with fewer parts than ranks neighbouring ranks have the same one.

    ```mlir
    #mpk_tensor.shard<dim 0 of 4>
    ```
    """

    name = "mpk_tensor.shard"

    dim: IntAttr = param_def()
    of: IntAttr = param_def()

    def __init__(self, dim: int | IntAttr, of: int | IntAttr):
        super().__init__(
            dim if isinstance(dim, IntAttr) else IntAttr(dim),
            of if isinstance(of, IntAttr) else IntAttr(of),
        )

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            parser.parse_keyword("dim")
            dim = parser.parse_integer(allow_boolean=False)
            parser.parse_keyword("of")
            of = parser.parse_integer(allow_boolean=False)
        return IntAttr(dim), IntAttr(of)

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string(f"dim {self.dim.data} of {self.of.data}")

    def verify(self) -> None:
        if self.dim.data < 0 or self.of.data < 2:
            raise VerifyException(f"a shard is one of two or more along a dimension, got {self}")

    def check_rank(self, shape: Sequence[int]) -> None:
        """Raise VerifyException unless a shape has the dimension."""
        if self.dim.data >= len(shape):
            raise VerifyException(
                f"a shape of {list(shape)} has no dimension {self.dim.data} to be a shard of"
            )

    def whole_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of all shards together, given that of one."""
        dim, of = self.dim.data, self.of.data
        return tuple(size * of if d == dim else size for d, size in enumerate(shape))

    def part_of(self, shape: Sequence[int], rank: int, ranks: int) -> tuple[slice, ...]:
        """The indices of a rank's part, given the shape of the whole."""
        size = shape[self.dim.data] // self.of.data
        first = shard_of(rank, ranks, self.of.data) * size
        return (slice(None),) * self.dim.data + (slice(first, first + size),)
