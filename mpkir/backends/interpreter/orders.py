"""In what order workers that may go on do so: at random, or as badly as can be."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class Delay:
    """A worker runs only when nobody else can; the others at random."""

    worker: int


@dataclass(frozen=True)
class Ahead:
    """A worker runs whenever it can; the others at random."""

    worker: int


Order: TypeAlias = Literal["random", "eager"] | Delay | Ahead
"""Eager: always the task furthest along, consumers as early as events let them."""


def choose(
    order: Order,
    ready: Sequence[int],
    random: random.Random,
    progress: Callable[[int], tuple[int, int]],
) -> int:
    """Which of the ready workers goes on: its place in `ready`. `progress` gives the step that a
    worker is in and the place of its next task in program order."""
    if order == "eager":
        return max(range(len(ready)), key=lambda i: progress(ready[i]))
    if isinstance(order, Ahead) and order.worker in ready:
        return ready.index(order.worker)
    at = random.randrange(len(ready))
    if isinstance(order, Delay) and ready[at] == order.worker:
        at = (at + 1) % len(ready)
    return at
