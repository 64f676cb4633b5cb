"""How a tensor of the model is divided among ranks."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import I64, DenseArrayBase, IntAttr, i64
from xdsl.ir import Attribute, Operation, ParametrizedAttribute
from xdsl.irdl import irdl_attr_definition, param_def
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from mpkir.dialects.mesh import check_shards, shard_of


@irdl_attr_definition
class ShardAttr(ParametrizedAttribute):
    """One of `of` equal parts along dimension `dim`: rank r of R has part r * of // R, so that
    with fewer parts than ranks neighbouring ranks have the same one.

    Of what consists of pieces along the dimension (queries, keys and values, say), a part of each,
    one after another: `4096 of 8` is 4096 indices in eight parts, `1024 of 1` all of 1024.

    ```mlir
    #mpk_tensor.shard<dim 0 of 4>
    #mpk_tensor.shard<dim 0 pieces [4096 of 8, 1024 of 4, 1024 of 4]>
    ```
    """

    name = "mpk_tensor.shard"

    dim: IntAttr = param_def()
    of: IntAttr = param_def()
    """Parts; of pieces, those of the piece that has most."""
    sizes: DenseArrayBase[I64] = param_def()
    """Indices of each piece of the whole; empty for a dimension that is one."""
    parts: DenseArrayBase[I64] = param_def()
    """Into how many parts each falls."""

    def __init__(self, dim: int, of: int, pieces: Sequence[tuple[int, int]] = ()):
        super().__init__(
            IntAttr(dim),
            IntAttr(of),
            DenseArrayBase.from_list(i64, [size for size, _ in pieces]),
            DenseArrayBase.from_list(i64, [parts for _, parts in pieces]),
        )

    @property
    def pieces(self) -> tuple[tuple[int, int], ...]:
        """Size and number of parts of each piece."""
        sizes, parts = (map(int, each.get_values()) for each in (self.sizes, self.parts))
        return tuple(zip(sizes, parts, strict=True))

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        def piece() -> tuple[int, int]:
            size = parser.parse_integer(allow_boolean=False)
            parser.parse_keyword("of")
            return size, parser.parse_integer(allow_boolean=False)

        with parser.in_angle_brackets():
            parser.parse_keyword("dim")
            dim = parser.parse_integer(allow_boolean=False)
            if parser.parse_optional_keyword("pieces") is None:
                parser.parse_keyword("of")
                return ShardAttr(dim, parser.parse_integer(allow_boolean=False)).parameters
            pieces = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, piece)
            most = max((parts for _, parts in pieces), default=0)
            return ShardAttr(dim, most, pieces).parameters

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            if not self.pieces:
                printer.print_string(f"dim {self.dim.data} of {self.of.data}")
                return
            text = ", ".join(f"{size} of {parts}" for size, parts in self.pieces)
            printer.print_string(f"dim {self.dim.data} pieces [{text}]")

    def verify(self) -> None:
        if self.dim.data < 0 or self.of.data < 2:
            raise VerifyException(f"a shard is one of two or more along a dimension, got {self}")
        for size, parts in self.pieces:
            if parts < 1 or size < 1 or size % parts:
                raise VerifyException(f"{size} indices do not fall into {parts} equal parts")

    def check(self, op: Operation, shape: Sequence[int], what: str) -> None:
        """Raise VerifyException unless a shape is that of a shard which the ranks around an op
        share."""
        dim = self.dim.data
        if dim >= len(shape):
            raise VerifyException(
                f"a shape of {list(shape)} has no dimension {dim} to be a shard of"
            )
        if self.pieces and shape[dim] != sum(size // parts for size, parts in self.pieces):
            raise VerifyException(f"a shape of {list(shape)} is no {self}")
        for parts in {self.of.data, *(parts for _, parts in self.pieces if parts > 1)}:
            check_shards(op, parts, what)

    def whole_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of all shards together, given that of one."""
        dim = self.dim.data
        whole = sum(size for size, _ in self.pieces) or shape[dim] * self.of.data
        return tuple(whole if d == dim else size for d, size in enumerate(shape))

    def part_of(self, shape: Sequence[int], rank: int, ranks: int) -> tuple[slice | list[int], ...]:
        """The indices of a rank's part, given the shape of the whole."""
        dim = self.dim.data
        spans: list[tuple[int, int]] = []
        start = 0
        for size, parts in self.pieces or ((shape[dim], self.of.data),):
            length = size // parts
            first = start + shard_of(rank, ranks, parts) * length
            spans.append((first, first + length))
            start += size
        one = slice(*spans[0]) if len(spans) == 1 else [i for span in spans for i in range(*span)]
        return (*(slice(None),) * dim, one)
