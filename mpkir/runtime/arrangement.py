"""How a tensor of a model is put together from those of its files.

Mixtures of experts lie in files as a matrix for each expert, and are a stack of them in the model.
What is written down here lets whoever needs a part of the stack read that part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

Shape = tuple[int, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Stacked:
    """Tensors of one shape along a new dimension."""

    parts: tuple[Arrangement, ...]
    dim: int
    kind: Literal["stacked"] = "stacked"


@dataclass(frozen=True)
class Joined:
    """Tensors one after another along a dimension."""

    parts: tuple[Arrangement, ...]
    dim: int
    kind: Literal["joined"] = "joined"


@dataclass(frozen=True)
class Swapped:
    """A tensor with two dimensions, `dims`, exchanged."""

    whole: Arrangement
    dims: tuple[int, ...]
    kind: Literal["swapped"] = "swapped"


Arrangement = str | Stacked | Joined | Swapped
"""The name of a tensor of a file, or what is made of some."""


def swapped(items: tuple[T, ...], dims: tuple[int, ...]) -> tuple[T, ...]:
    """Something for each dimension, two of them exchanged."""
    order = list(range(len(items)))
    order[dims[0]], order[dims[1]] = dims[1], dims[0]
    return tuple(items[d] for d in order)


def shape_of(arrangement: Arrangement, in_file: Callable[[str], Shape]) -> Shape:
    """The shape of what is put together, given those of the files' tensors. ValueError where these
    do not fit together."""
    match arrangement:
        case str():
            return in_file(arrangement)
        case Swapped():
            return swapped(shape_of(arrangement.whole, in_file), arrangement.dims)
        case Stacked() | Joined():
            dim = arrangement.dim
            shapes = [shape_of(part, in_file) for part in arrangement.parts]
            rank = len(shapes[0]) + isinstance(arrangement, Stacked)
            if not 0 <= dim < rank:
                raise ValueError(f"no dimension {dim} of {rank}")
            if isinstance(arrangement, Stacked):
                others = set(shapes)
                whole = (*shapes[0][:dim], len(shapes), *shapes[0][dim:])
            else:
                others = {(*shape[:dim], *shape[dim + 1 :]) for shape in shapes}
                size = sum(shape[dim] for shape in shapes)
                whole = (*shapes[0][:dim], size, *shapes[0][dim + 1 :])
            if len(others) > 1:
                raise ValueError(f"{sorted(others)} do not fit together")
            return whole
