"""Where compiled things are kept, and what they depend on."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path

import mpkir


def cache_directory() -> Path:
    """$MPKIR_CACHE, or mpkir's folder in the user's cache directory ($XDG_CACHE_HOME, ~/.cache)."""
    own = os.environ.get("MPKIR_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mpkir"


@cache
def source_digest() -> str:
    """Hash of this package's own files: what any compiled thing depends on besides its input."""
    root = Path(mpkir.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix in (".py", ".cuh", ".hpp", ".json", ".lark"):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
