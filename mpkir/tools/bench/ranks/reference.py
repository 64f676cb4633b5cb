"""Caches as they are before they are divided."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mpkir.runtime.manifest import Manifest
from mpkir.tools.bench.records import caches_of


def undivided(manifest: Manifest, config: Any) -> Manifest:
    """A program's manifest, whose caches have all heads of the model."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    caches = {cache.name for cache in caches_of(manifest)}
    buffers = tuple(
        replace(b, shape=(b.shape[0], heads, *b.shape[2:])) if b.name in caches else b
        for b in manifest.buffers
    )
    return replace(manifest, buffers=buffers)
