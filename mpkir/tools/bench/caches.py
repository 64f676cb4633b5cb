"""Keys and values of positions that nobody has run through: random, the same in every system."""

from __future__ import annotations

from zlib import crc32

import torch

from mpkir.runtime.manifest import Buffer
from mpkir.runtime.program import Program
from mpkir.tools.bench.records import caches_of


def random_rows(cache: Buffer, positions: int, device: torch.device) -> torch.Tensor:
    """Rows of a cache, bf16 [batch, heads, positions, size], as large as normed keys."""
    batch, heads, _, size = cache.shape
    generator = torch.Generator(device).manual_seed(crc32(cache.name.encode()))
    shape = (batch, heads, positions, size)
    return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).bfloat16()


def fill_caches(program: Program, positions: int) -> None:
    """Put random rows before `positions`, zeros behind."""
    for cache in caches_of(program.manifest):
        memory = program.buffer(cache.name)
        memory.zero_()
        memory[:, :, :positions] = random_rows(cache, positions, program.device)
