"""Which accesses of a buffer have to be compared: pairs that no write in between orders already.

Whoever touches an element before it is written again is ordered before the task that writes it, and
this one before whoever touches it later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, Self, TypeAlias, TypeVar

from mpkir.analysis.families import Access


class Elements(Protocol):
    """A set of elements of a buffer."""

    def __bool__(self) -> bool:
        """Whether there is any."""
        ...

    def meets(self, other: Self, /) -> bool:
        """Whether there is a common element."""
        ...

    def without(self, other: Self, /) -> Self:
        """The elements that are not in another set."""
        ...


E = TypeVar("E", bound=Elements)

Place: TypeAlias = tuple[int, int]
"""An access: its group, and which one it is of those."""


def live_pairs(groups: Sequence[Sequence[tuple[Access, E]]]) -> Iterator[tuple[Place, Place]]:
    """Pairs of accesses of different groups, one of which writes, that meet in an element that
    nobody between the two groups writes.

    Groups come in their order, with the elements that each access touches.
    """
    live: list[tuple[Place, E]] = []
    for number, group in enumerate(groups):
        for place, (access, elements) in enumerate(group):
            for (at, i), alive in live:
                one_writes = access.is_write or groups[at][i][0].is_write
                if one_writes and alive.meets(elements):
                    yield (at, i), (number, place)
        for access, elements in group:
            if access.is_write:
                live = [(key, alive.without(elements)) for key, alive in live]
        live = [(key, alive) for key, alive in live if alive]
        live += [((number, place), elements) for place, (_, elements) in enumerate(group)]
