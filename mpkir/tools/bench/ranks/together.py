"""A measurement that all ranks make at once, and what all of them must know of it."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch

from mpkir.errors import MpkirError
from mpkir.runtime.ranks.group import Group


def at_once(group: Group, device: torch.device, run: Callable[[], float] | None) -> float:
    """The least of what `run` gives on the ranks that have one, begun when all are there.

    Those that work together end together, so the least is from when the last one has begun. Raises
    MpkirError on all ranks if one of them does.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    group.barrier()
    own: float | str | None = None
    try:
        own = None if run is None else run()
    except MpkirError as error:
        own = str(error)
    each = [json.loads(told) for told in group.gather(json.dumps(own).encode())]
    for told in each:
        if isinstance(told, str):
            raise MpkirError(told)
    return min(told for told in each if told is not None)


def agreed(group: Group, error: MpkirError | None) -> MpkirError | None:
    """What the first rank that found something wrong says of it; None if all is well on all."""
    told = group.gather(b"" if error is None else str(error).encode())
    return next((MpkirError(each.decode()) for each in told if each), None)
