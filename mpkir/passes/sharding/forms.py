"""In which form ranks hold a value, and the ways in which an operator can be divided among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from itertools import product
from math import prod


@dataclass(frozen=True)
class Form:
    """Each rank has all of a value, or one of `of` equal parts along `dim`.

    pieces  of a value that consists of several along `dim` (queries, keys and values, say), how
            many indices each has and into how many parts it falls: a rank has a part of each, one
            after another; `of` is the most of these
    """

    dim: int = 0
    of: int = 1
    pieces: tuple[tuple[int, int], ...] = ()

    def local(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape that a rank has, given that of the whole."""
        pieces = self.pieces or ((shape[self.dim], self.of),) if shape else ()
        size = sum(size // of for size, of in pieces)
        return tuple(size if d == self.dim else n for d, n in enumerate(shape))

    def along(self, dim: int) -> Form:
        """The same parts of another dimension."""
        return replace(self, dim=dim)

    def span(self, start: int, length: int) -> tuple[int, Form] | None:
        """Of so many neighbouring indices along `dim`, where they begin in what a rank has, and
        their form; None where they are not whole pieces."""
        first = local = 0
        covered: list[tuple[int, int]] = []
        for size, of in self.pieces:
            if start <= first and first + size <= start + length:
                covered.append((size, of))
            elif first < start + length and start < first + size:
                return None
            if first < start:
                local += size // of
            first += size
        return local, form_of_pieces(self.dim, covered)


WHOLE = Form()


def form_of_pieces(dim: int, pieces: Sequence[tuple[int, int]]) -> Form:
    """The form of a value of such pieces: if it is one, a plain part of it."""
    of = max((of for _, of in pieces), default=1)
    if of == 1:
        return WHOLE
    return Form(dim, of, tuple(pieces) if len(pieces) > 1 else ())


class Kind(Enum):
    """What ranks exchange."""

    SUM = auto()
    """Partial sums: all_reduce."""
    SUM_IN_PARTS = auto()
    """Partial sums, of which each adds up a shard and sends it to all: reduce_scatter, all_gather.
    """
    SHARD_OF_SUM = auto()
    """Partial sums, of which each wants its shard: reduce_scatter."""
    SHARDS = auto()
    """Their parts: all_gather."""


@dataclass(frozen=True)
class Exchange:
    """One collective: what it is, among how many different parts, bytes that a rank sends each; of
    a sum in parts, each of both times."""

    kind: Kind
    of: int
    bytes: int


@dataclass(frozen=True)
class Way:
    """One way to divide an operator: the forms that it takes operands in, those of its results
    after what it exchanges."""

    operands: tuple[Form, ...]
    results: tuple[Form, ...]
    exchange: Exchange | None = None


def shares(size: int, ranks: int) -> Iterator[int]:
    """Into how many equal parts ranks can divide so many things, most first; several neighbouring
    ranks have the same part where there are fewer than ranks."""
    return (of for of in range(ranks, 1, -1) if ranks % of == 0 and size % of == 0)


def dim_of_parts(shape: Sequence[int], of: int) -> int | None:
    """Along which dimension a value falls into so many equal parts that lie one after another, so
    that the whole is a view of them; None if it does not."""
    dim = next((dim for dim, size in enumerate(shape) if size > 1), None)
    return dim if dim is not None and shape[dim] % of == 0 else None


def forms_of(shape: Sequence[int], ranks: int) -> Iterator[Form]:
    """All forms of a value but the whole, the last dimensions first."""
    for dim in reversed(range(len(shape))):
        yield from (Form(dim, of) for of in shares(shape[dim], ranks))


def forms_in_pieces(dim: int, sizes: Sequence[int], ranks: int) -> Iterator[Form]:
    """The forms of a value that consists of pieces of these sizes along a dimension. Pieces of one
    size fall into equally many parts, smaller ones into no more than larger ones."""
    if len(sizes) < 2:
        return
    different = sorted(set(sizes), reverse=True)
    for parts in product(*((*shares(size, ranks), 1) for size in different)):
        if parts[0] > 1 and list(parts) == sorted(parts, reverse=True):
            of = dict(zip(different, parts, strict=True))
            yield form_of_pieces(dim, [(size, of[size]) for size in sizes])


def broadcast_form(shape: Sequence[int], result: Sequence[int], form: Form) -> Form:
    """The form of an operand that broadcasts to a result of a form."""
    dim = form.dim - (len(result) - len(shape))
    if form == WHOLE or dim < 0 or shape[dim] != result[form.dim]:
        return WHOLE
    return form.along(dim)


def reshaped_form(source: Sequence[int], result: Sequence[int], form: Form) -> Form | None:
    """The form of a reshape of a value in a form; None if its parts are no parts of the result."""
    before = prod(source[: form.dim])
    for dim, size in enumerate(result):
        if size > 1 and prod(result[:dim]) == before:
            if form.pieces:
                return form.along(dim) if size == source[form.dim] else None
            return Form(dim, form.of) if size % form.of == 0 else None
    return None
