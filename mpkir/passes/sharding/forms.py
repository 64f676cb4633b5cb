"""In which form ranks hold a value, and the ways in which an operator can be divided among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from math import prod


@dataclass(frozen=True)
class Form:
    """Each rank has all of a value, or one of `of` equal parts along `dim`."""

    dim: int = 0
    of: int = 1

    def local(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape that a rank has, given that of the whole."""
        return tuple(n // self.of if d == self.dim else n for d, n in enumerate(shape))


WHOLE = Form()


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


def broadcast_form(shape: Sequence[int], result: Sequence[int], form: Form) -> Form:
    """The form of an operand that broadcasts to a result of a form."""
    dim = form.dim - (len(result) - len(shape))
    if form == WHOLE or dim < 0 or shape[dim] != result[form.dim]:
        return WHOLE
    return Form(dim, form.of)


def reshaped_form(source: Sequence[int], result: Sequence[int], form: Form) -> Form | None:
    """The form of a reshape of a value in a form; None if its parts are no parts of the result."""
    before = prod(source[: form.dim])
    for dim, size in enumerate(result):
        if size > 1 and prod(result[:dim]) == before:
            return Form(dim, form.of) if size % form.of == 0 else None
    return None
