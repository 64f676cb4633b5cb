"""Outputs of which each rank has a part, put together on the host."""

from __future__ import annotations

import torch

from mpkir.runtime.manifest import Place, Shard
from mpkir.runtime.ranks.group import Group


def gathered(group: Group, shard: Shard, part: torch.Tensor) -> torch.Tensor:
    """The whole tensor on the CPU, from what each rank has; all of them have to call it."""
    own = part.detach().cpu().contiguous()
    parts: list[torch.Tensor] = []
    for rank, data in enumerate(group.gather(own.view(-1).view(torch.uint8).numpy().tobytes())):
        # Neighbours have the same part where there are fewer than ranks.
        if shard.part(Place(rank, group.ranks)) == len(parts):
            parts.append(torch.frombuffer(bytearray(data), dtype=own.dtype).view(own.shape))
    return torch.cat(parts, shard.dim)
