"""Machine models: the numbers about a target that passes decide by, as data files in
mpkir/machines.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from mpkir.errors import MpkirError
from mpkir.registry import named

LAUNCHES = ("persistent", "per-operator")
"""How a step is run: by one kernel that stays, or by a kernel for each operator."""

HANDOFFS = ("counter", "flag")
"""By an event for all that a task writes, or by each element of an activation for itself."""

TRANSPORTS = ("direct", "nvshmem")
"""How ranks reach each other's memory: all by an address, or by NVSHMEM where there is none."""

_TARGET = re.compile(r"(?P<name>[^{}]+)\{(?P<options>[^{}]*)\}")

_RESERVED = 1024
"""Bytes of an SM's shared memory that each block on it costs besides."""

_KEYS = (
    "arch",
    "workers",
    "shared_memory",
    "scratch",
    "memory_bandwidth",
    "hop_us",
    "ring",
    "tiles",
)


@dataclass(frozen=True)
class Ring:
    """The shared-memory ring that weights stream through."""

    slots: int
    """Beside `scratch`; a kernel whose tasks need more than that has fewer."""
    slot_bytes: int
    in_flight: int = 0
    """Stages asked for and not landed yet, at most; 0: what a program's steps need, of
    `in_flights` (analysis/stream_share.py)."""
    in_flights: tuple[int, int] = (0, 0)
    """Where memory sets the pace of a step, and where its families wait for each other."""
    waits_from: float = 0.0
    """How long a step's families wait for each other, over the time its weights stream, from which
    on the second of these is better."""
    ease: int = 0
    """While no more than so many slots are free, the loader takes its time."""
    pace: int | None = None
    """Clock cycles from one stage to the next then; None: what a program's steps leave time for
    (backends/cuda/pace.py)."""
    margin: float | None = None
    """By how much more than its share of the memory's time a stage is given then; None: by as much
    as a step is longer than its weights take."""
    ahead: int = 0
    """Stages behind a full ring that L2 is asked for meanwhile, at most: where a layer waits longer
    than the ring holds, the memory would have nothing to do."""
    ahead_rows: int = 0
    """With so many rows of x and more."""
    ahead_below: float = 0.0
    """With fewer only where a step's families wait for less than this of the time that its weights
    stream."""
    long_from: int = 0
    """The position from which attention reads so much that the stream leaves it time; 0: none."""
    exposed_us: float = 0.0
    """How long a family of tasks waits for the one before it, beside its weights."""
    clock_mhz: int = 0
    packed: bool = False
    """Whether weights are packed at load into blocks for tensor cores."""
    caches: bool = False
    """Whether rows of caches come through it, too, where attention can take them so."""
    registers_from: int = 0
    """With so many rows of x and more, or where x comes in passes through shared memory, the warps
    that compute take registers over from the others; 0: never."""

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
    """Most neighbouring cache rows that one task of a split attention takes at once."""
    argmax_chunks: int
    """Parts that an argmax over the vocabulary is cut in."""
    max_rows: int
    """Most output features of one task of a linear, all its weights together."""
    task_overhead: int
    """Cost of one more task, as bytes of weights that could be read meanwhile."""
    min_elements: int
    """Fewest elements worth a task of a pointwise operator."""
    joined_bytes: int = 0
    """Most bytes of weights for each worker of linears that become one; 0: none do."""
    row_multiple: int = 1
    """Output features of a linear's task are a multiple of this: a tensor core takes as many."""
    max_rows_of_many: int = 0
    """The same as `max_rows` of 8 rows of x and more, whose sums take shared memory from the ring;
    0: as many."""
    attention_bytes: int = 0
    """Bytes of keys of such rows: of short ones more are taken, as many as are so many bytes."""
    argmax_best_of: int = 0
    """Neighbouring features of which a linear keeps the best for an argmax, which then does not
    read them all again; 0: it does."""
    argmax_at_once: int = 0
    """Most such candidates of all rows together that one task chooses among at once."""
    attention_joins: bool = False
    """Whether who has the first chunk of an attention joins the others to it."""


@dataclass(frozen=True)
class Timing:
    """What the simulator plays tasks by, beside bandwidth and hops; microseconds, GB/s (of one
    worker) and bytes. docs/simulator.md says where each comes from.
    """

    reached: float = 1.0
    """Of the machine's bandwidth, what the streams of a step get at most."""
    dram_latency: float = 0.65
    """From asking for a stage to its landing, the memory idle."""
    l2_latency: float = 0.5
    """A poll, or the first read of what another worker has written."""
    l2_bandwidth: float = 60
    """Reads of an input by a task that does not stream its weights, and as mpk-shard charges them.
    """
    l2_share: float = 0.35
    """What a byte that streaming tasks multiply, out of L2, takes of the memory's time, beside a
    weight's."""
    prepare: float = 0.2
    """A streaming task's start beside that read: norms, a place in the queue."""
    products: float = 100
    """Weights out of the ring that are not packed, multiplied."""
    stage: float = 0.05
    """Each stage beside that."""
    packed_stage: float = 0.17
    """Each stage of packed weights: a latency of tensor cores and barriers, for all its bytes."""
    element: float = 0.3
    """Each element of its input that a lane polls after the one before: only a product of packed
    weights polls all at once."""
    task: float = 0.35
    """A streaming task beside its stages: places of the queue, sums joined and stored."""
    plain: float = 1.7
    """Reads of a body that is neither a streaming product nor attention."""
    attention: float = 20
    """Arithmetic of attention, in 1e9 operations a second."""
    chunk: float = 1.0
    """Of an attention chunk that has rows, once its queries are there: their norm and rotation, the
    sums of its warps joined."""
    merge: float = 0.5
    """A merge of split attention, all its parts asked for at once."""
    join: float = 0.02
    """Each part that a merge of split attention joins."""
    body: float = 0.1
    """A body that does not stream, beside its reads and arithmetic."""
    pointwise: float = 0.1
    """The same of one that takes each element by itself, with no barrier."""
    release: float = 0.65
    """From results written to the signal's leaving, the memory idle; as much slower as the memory
    answers when it is busy."""
    arrival: float = 0.003
    """Each signal on a counter that others signal too."""
    link_bandwidth: float = 450
    """To the other devices of a host, of a whole device, each way."""
    host_devices: int = 8
    """Devices of one host."""
    network: float = 5.0
    """From a device to one of another host, as a hop."""
    network_bandwidth: float = 50
    """Of a whole device, each way."""
    code_cache: int = 131072
    """Instructions that a worker keeps at hand."""
    code_bandwidth: float = 3.5
    """Instructions that it does not have at hand."""
    code_of_weights: float = 0.127
    """Bytes of instructions for each byte of weights that a streaming task multiplies, if these are
    few enough to have an instruction each."""
    code_of_body: int = 4096
    """Bytes of instructions of any body beside that."""
    unrolled: int = 131072
    """Most bytes of weights of a task for which that is so."""


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
    timing: Timing = Timing()
    backend: str = ""
    """Who prints and builds its code, by name; by its kind if not given."""
    launch: str = "persistent"
    """One of LAUNCHES."""
    transport: str = "direct"
    """One of TRANSPORTS."""
    handoffs: tuple[str, ...] = ("counter",)
    """How tasks on different workers can hand over, of HANDOFFS."""

    @property
    def block_memory(self) -> int:
        """Bytes of shared memory that one block may use: where there is a kernel for each operator,
        two that follow each other have to fit on an SM."""
        if self.launch == "persistent":
            return self.shared_memory
        return (self.shared_memory + _RESERVED) // 2 - _RESERVED

    @property
    def block_ring(self) -> Ring:
        """The ring of one block: where it has but half of an SM, as many slots as that holds beside
        one more for everything else, all of them to be asked for at once but the one in use."""
        if self.launch == "persistent":
            return self.ring
        slots = self.block_memory // self.ring.slot_bytes - 1
        return replace(self.ring, slots=slots, in_flight=slots - 1)

    @property
    def builder(self) -> str:
        """The name of its backend: "cpu", "cuda" or a plugin's."""
        return self.backend or self.kind

    @property
    def kind(self) -> str:
        """What runs its programs: "cpu" or "cuda"."""
        return "cpu" if self.arch == "cpu" else "cuda"

    @property
    def streams(self) -> bool:
        """Whether weights pass through a ring in shared memory."""
        return self.shared_memory > 0


@cache
def _own() -> dict[str, Traversable]:
    """The files beside this one, by the names of their machines."""
    entries = files("mpkir.machines").iterdir()
    return {e.name.removesuffix(".json"): e for e in entries if e.name.endswith(".json")}


def machine_names() -> tuple[str, ...]:
    """The names of all machine models, plugins' included."""
    return tuple(sorted({*_own(), *named("machines")}))


def _data(name: str) -> dict[str, Any]:
    file = _own().get(name)
    return _read(named("machines")[name]() if file is None else file)


@cache
def _read(file: Traversable) -> dict[str, Any]:
    """A machine model's data. MpkirError for a file that is none."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MpkirError(f"this is no machine model ({error})", where=str(file)) from error
    if missing := [key for key in _KEYS if key not in data]:
        raise MpkirError(
            f"the machine model lacks {', '.join(missing)}",
            where=str(file),
            hint="mpkir/machines/h100.json has all of them",
        )
    return data


def machine_named(name: str, workers: int | None = None, ranks: int = 1) -> Machine:
    """The model of that name, or the first for that architecture, or in that file (`NAME.json`),
    with another number of workers if given; `NAME{launch=per-operator}`: with a kernel for each
    operator; `NAME{transport=nvshmem}`: for ranks that only a network connects, too.

    A model with 0 workers has one for each CPU of this machine, which `ranks` share. Raises
    MpkirError for an unknown name, or a file that is no model.
    """
    if match := _TARGET.fullmatch(name):
        machine = machine_named(match["name"], workers, ranks)
        for option in match["options"].split(","):
            machine = _with_option(machine, *option.strip().partition("=")[::2])
        return machine
    if name.endswith(".json"):
        return _machine(name, _read(Path(name)), workers, ranks)
    if name in _own():
        # Asking plugins needs the compiler, which is not everywhere that programs are measured.
        return _machine(name, _data(name), workers, ranks)
    by_arch = {_data(each)["arch"]: each for each in reversed(machine_names())}
    name = by_arch.get(name, name)
    if name not in machine_names():
        known = ", ".join((*machine_names(), *sorted(set(by_arch) - set(machine_names()))))
        raise MpkirError(f"no machine is named {name!r}", hint=f"choose one of {known}")
    return _machine(name, _data(name), workers, ranks)


def _with_option(machine: Machine, name: str, value: str) -> Machine:
    options = {"launch": launched, "transport": connected}
    if name not in options:
        raise MpkirError(f"targets have no option {name!r}", hint=f"choose of {', '.join(options)}")
    return options[name](machine, value)


def connected(machine: Machine, transport: str) -> Machine:
    """The same machine, several of it connected like that. Raises MpkirError for an unknown way, or
    one that the machine has not."""
    if transport not in TRANSPORTS:
        raise MpkirError(
            f"no transport is named {transport!r}", hint=f"choose one of {', '.join(TRANSPORTS)}"
        )
    if transport == "nvshmem" and machine.builder != "cuda":
        raise MpkirError(
            f"{machine.name} has no transport {transport!r}", hint="NVSHMEM connects NVIDIA's GPUs"
        )
    return replace(machine, transport=transport)


def launched(machine: Machine, launch: str) -> Machine:
    """The same machine, its steps run like that. Raises MpkirError for an unknown way, or one that
    the machine has not."""
    if launch not in LAUNCHES:
        raise MpkirError(
            f"no way to launch is named {launch!r}", hint=f"choose one of {', '.join(LAUNCHES)}"
        )
    if launch == "per-operator" and machine.builder != "cuda":
        raise MpkirError(
            f"{machine.name} has no launch {launch!r}", hint="only GPUs have kernels to launch"
        )
    return replace(machine, launch=launch)


def _machine(name: str, data: dict[str, Any], workers: int | None, ranks: int) -> Machine:
    if workers is not None and workers < 1:
        raise MpkirError(f"a machine needs at least one worker, got {workers}")
    try:
        timing = Timing(**data.get("timing", {}))
    except TypeError as error:
        raise MpkirError(f"the machine model's timing is wrong ({error})", where=name) from error
    handoffs = tuple(data.get("handoffs", HANDOFFS[:1]))
    if unknown := [each for each in handoffs if each not in HANDOFFS]:
        raise MpkirError(
            f"no hand-off is named {unknown[0]!r}",
            where=name,
            hint=f"choose of {', '.join(HANDOFFS)}",
        )
    return Machine(
        name=name,
        arch=data["arch"],
        workers=workers or data["workers"] or max(1, (os.cpu_count() or 1) // ranks),
        shared_memory=data["shared_memory"],
        scratch=data["scratch"],
        memory_bandwidth=data["memory_bandwidth"],
        hops=Hops(**data["hop_us"]),
        ring=Ring(**data["ring"] | {"in_flights": tuple(data["ring"].get("in_flights", (0, 0)))}),
        tiles=Tiles(**data["tiles"]),
        timing=timing,
        backend=data.get("backend", ""),
        handoffs=handoffs,
    )
