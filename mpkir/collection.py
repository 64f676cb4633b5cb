"""Python's collector of cycles, kept from running all the time while a compiler makes objects.

IR and graphs are cyclic and live long: by default a collection follows every 700 new objects, finds
nothing, and the full ones walk over all of torch. That is a quarter of the time of an export.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_NEW_OBJECTS = 200_000


@contextmanager
def rare_collection() -> Iterator[None]:
    """Collect after every 200,000 new objects meanwhile; also a decorator."""
    held = gc.get_threshold()
    gc.set_threshold(max(_NEW_OBJECTS, held[0]), *held[1:])
    try:
        yield
    finally:
        gc.set_threshold(*held)
