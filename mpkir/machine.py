"""Machine models: the numbers about a target that passes decide by, as data files in
mpkir/machines.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from mpkir.errors import MpkirError


@dataclass(frozen=True)
class Ring:
    """The shared-memory ring that weights stream through."""

    slots: int
    slot_bytes: int
    in_flight: int
    """Stages asked for and not landed yet, at most."""

    @property
    def bytes(self) -> int:
        """Shared memory of the whole ring."""
        return self.slots * self.slot_bytes


@dataclass(frozen=True)
class Hops:
    """Microseconds from a producer's signal to a consumer's start, by the means of hand-off."""

    local: float
    counter: float
    flag: float
    peer: float


@dataclass(frozen=True)
class Tiles:
    """What sizes of tasks pay on a machine."""

    attention_chunk: int
    """Cache rows that one task of a split attention reads."""
    argmax_chunks: int
    """Parts that an argmax over the vocabulary is cut in."""
    max_rows: int
    """Most output features of one task of a linear, all its weights together."""
    task_overhead: int
    """Cost of one more task, as bytes of weights that could be read meanwhile."""
    min_elements: int
    """Fewest elements worth a task of a pointwise operator."""


@dataclass(frozen=True)
class Machine:
    """A target: how many workers it has, what they hold, how fast its memory is."""

    name: str
    arch: str
    """What the code is compiled for: `sm_90a`, `sm_80`, or `cpu`."""
    workers: int
    """SMs, or threads."""
    shared_memory: int
    """Bytes that one worker's block may use; 0 where there is no such thing."""
    scratch: int
    """Bytes of it that task bodies use beside the ring."""
    memory_bandwidth: float
    """GB/s that a stream of weights reaches, measured."""
    hops: Hops
    ring: Ring
    tiles: Tiles

    @property
    def kind(self) -> str:
        """Which backend makes code for it: "cpu" or "cuda"."""
        return "cpu" if self.arch == "cpu" else "cuda"

    @property
    def streams(self) -> bool:
        """Whether weights pass through a ring in shared memory."""
        return self.shared_memory > 0


@cache
def machine_names() -> tuple[str, ...]:
    """The names of all machine models."""
    folder = files("mpkir.machines")
    names = (entry.name for entry in folder.iterdir())
    return tuple(sorted(n.removesuffix(".json") for n in names if n.endswith(".json")))


@cache
def _data(name: str) -> dict[str, Any]:
    text = files("mpkir.machines").joinpath(f"{name}.json").read_text(encoding="utf-8")
    return json.loads(text)


def machine_named(name: str, workers: int | None = None) -> Machine:
    """The model of that name, or the first for that architecture, with another number of workers if
    given.

    A model with 0 workers has one for each CPU of this machine. Raises MpkirError for an unknown
    name.
    """
    by_arch = {_data(each)["arch"]: each for each in reversed(machine_names())}
    name = by_arch.get(name, name)
    if name not in machine_names():
        known = ", ".join((*machine_names(), *sorted(set(by_arch) - set(machine_names()))))
        raise MpkirError(f"no machine is named {name!r}", hint=f"choose one of {known}")
    data = _data(name)
    if workers is not None and workers < 1:
        raise MpkirError(f"a machine needs at least one worker, got {workers}")
    return Machine(
        name=name,
        arch=data["arch"],
        workers=workers or data["workers"] or os.cpu_count() or 1,
        shared_memory=data["shared_memory"],
        scratch=data["scratch"],
        memory_bandwidth=data["memory_bandwidth"],
        hops=Hops(**data["hop_us"]),
        ring=Ring(**data["ring"]),
        tiles=Tiles(**data["tiles"]),
    )
