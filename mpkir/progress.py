"""What a compilation tells whoever watches it: stages begin, stages end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter


@dataclass(frozen=True)
class Progress:
    """Callbacks for the stages of a compilation: `begin(name)` and `end(name, seconds)`.

    A stage that an error cuts short has no end.
    """

    begin: Callable[[str], None] = lambda stage: None
    end: Callable[[str, float], None] = lambda stage, seconds: None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a stage around what it does, and time it."""
        self.begin(name)
        begun = perf_counter()
        yield
        self.end(name, perf_counter() - begun)


SILENT = Progress()
