"""From a scheduled module to the runtime table: everything gets an id, tasks in worker order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from xdsl.dialects.builtin import (
    BFloat16Type,
    Float16Type,
    Float32Type,
    Float64Type,
    IntegerAttr,
    IntegerType,
    MemRefType,
    ModuleOp,
)
from xdsl.ir import Attribute

from mpkir.analysis.execution import Listed, executed_of
from mpkir.analysis.families import WORKERS, Family, Ints, evaluate, families_of
from mpkir.backends.body import Body, Panels, apart_of, bodies_of, panels_of
from mpkir.dialects import event, task
from mpkir.dialects.mesh import ranks_of
from mpkir.dialects.shards import ShardAttr
from mpkir.errors import MpkirError
from mpkir.runtime.table import MAX_OPERANDS, Table, TableNames, TaskField, mark_releases

_FLOATS: dict[type[Attribute], str] = {
    BFloat16Type: "bfloat16",
    Float16Type: "float16",
    Float32Type: "float32",
    Float64Type: "float64",
}


@dataclass(frozen=True)
class Buffer:
    """A buffer as the runtime has to provide it; its id is its place in `buffers_of`."""

    name: str
    """No other buffer's: a weight that two of them hold is called differently the second time."""
    symbol: str
    """What the module calls it: the tensor that fills a weight."""
    kind: str
    """weight, state, input, output or scratch."""
    dtype: str
    """bfloat16, float32, int64, bool, ..."""
    shape: tuple[int, ...]
    initial: int
    """Fills a state before the first step."""
    donated: bool
    """Whether the program writes over a state."""
    flagged: bool
    """Whether each element carries the number of the step that wrote it."""
    brief: bool
    """Whether of that number only the last bit is there."""
    apart: int
    """Neighbouring elements that have a line of memory to themselves, or 0."""
    panels: Panels | None
    """How elements lie that do so in panels."""
    planes: bool
    """Whether f32 lies as two planes of bf16, rounded and what that lost."""
    packed: bool
    """Whether a weight lies as blocks for tensor cores."""
    parts: tuple[tuple[str, int, ShardAttr | None], ...]
    """The tensors that fill a joined weight, the rows of each, and which part of it they are."""
    shard: ShardAttr | None
    """Which part every rank has."""
    exchange: bool
    """Whether ranks write it in each other's memory."""


def dtype_name(element_type: Attribute) -> str:
    """NumPy's (or ml_dtypes') name of an element type."""
    if isinstance(element_type, IntegerType):
        width = element_type.width.data
        return "bool" if width == 1 else f"int{width}"
    name = _FLOATS.get(type(element_type))
    if name is None:
        raise MpkirError(f"no buffer can have elements of type {element_type}")
    return name


def buffer_ops_of(module: ModuleOp) -> tuple[task.BufferOp, ...]:
    """The buffers of a module in order of their ids."""
    return tuple(op for op in module.walk() if isinstance(op, task.BufferOp))


def buffers_of(module: ModuleOp) -> tuple[Buffer, ...]:
    """What the runtime has to know of each buffer, in order of ids."""
    ops = buffer_ops_of(module)
    return tuple(_buffer(op, name) for op, name in zip(ops, _names_of(ops), strict=True))


def _names_of(ops: Sequence[task.BufferOp]) -> tuple[str, ...]:
    """A name for each buffer: a rank may have all of a table and, beside it, its shard."""
    taken = {op.sym.data for op in ops}
    seen: set[str] = set()
    names: list[str] = []
    for op in ops:
        name, number = op.sym.data, 1
        while name in seen or (number > 1 and name in taken):
            number += 1
            name = f"{op.sym.data}#{number}"
        seen.add(name)
        names.append(name)
    return tuple(names)


def _buffer(op: task.BufferOp, name: str) -> Buffer:
    assert isinstance(op.result.type, MemRefType)
    parts = () if op.parts is None else zip(op.parts.items, op.parts.shards, strict=True)
    return Buffer(
        name,
        op.sym.data,
        str(op.kind.data),
        dtype_name(op.result.type.get_element_type()),
        tuple(op.result.type.get_shape()),
        op.initial.value.data,
        op.donated is not None,
        op.flagged is not None,
        op.brief is not None,
        apart_of(op),
        panels_of(op),
        op.planes is not None,
        op.packed is not None,
        tuple((source, rows, shard) for (source, rows), shard in parts),
        op.shard,
        op.exchange is not None,
    )


@dataclass(frozen=True)
class _Counters:
    """All counters of a module, those of peers behind the others."""

    first: dict[str, int]
    """First counter id of each event tensor."""
    names: tuple[str, ...]
    arrivals: tuple[int, ...]
    peers: int
    """How many are peers'."""


def _counters_of(module: ModuleOp) -> _Counters:
    tensors = [op for op in module.walk() if isinstance(op, event.TensorOp)]
    tensors.sort(key=_is_peer)
    first: dict[str, int] = {}
    names: list[str] = []
    arrivals: list[int] = []
    for op in tensors:
        symbol, each = op.sym_name.data, op.arrivals_of_each
        if op.handoff.data not in (event.Handoff.COUNTER, event.Handoff.PEER):
            raise MpkirError(
                f"hands over by {op.handoff.data.value!r}, and a table has only counters",
                where=f"@{symbol}",
                hint="make the hand-off 'counter' or 'peer'",
            )
        first[symbol] = len(names)
        names += [symbol] if len(each) == 1 else [f"{symbol}.{i}" for i in range(len(each))]
        arrivals += each
    peers = sum(op.counters.value.data for op in tensors if _is_peer(op))
    if peers and ranks_of(module) == 1:
        raise MpkirError("the module has events of peers, and one rank")
    return _Counters(first, tuple(names), tuple(arrivals), peers)


def _is_peer(op: event.TensorOp) -> bool:
    return op.handoff.data is event.Handoff.PEER


def _edge(
    family: Family, edges: Sequence[event.EdgeAttr], what: str, first: dict[str, int]
) -> tuple[Ints, int]:
    """Counter id for each task (-1 for none), and the lag."""
    if not edges:
        return np.full(family.size, -1, np.int64), 0
    if len(edges) > 1:
        raise MpkirError(
            f"tasks {what} {len(edges)} events, a table has room for one",
            where=f"@{family.name}",
            hint="run mpk-normalize-events before",
        )
    edge = edges[0]
    if edge.symbol not in first:
        raise MpkirError(f"tasks {what} @{edge.symbol}, which is no event", where=f"@{family.name}")
    return first[edge.symbol] + evaluate(edge.index.data, family.coordinates)[:, 0], edge.lag.data


def _family_row(family: Family, body: int, ids: dict[task.BufferOp, int]) -> list[int]:
    accesses = list(family.accesses)
    # A cache that is the last result is where it was read: bodies know it as what they read.
    reads = {access.buffer for access in accesses if not access.is_write}
    while len(accesses) > MAX_OPERANDS and accesses[-1].is_write and accesses[-1].buffer in reads:
        accesses.pop()
    if len(accesses) > MAX_OPERANDS:
        raise MpkirError(
            f"a task touches {len(family.accesses)} buffers, a table has room for {MAX_OPERANDS}",
            where=f"@{family.name}",
            hint="split the operator or fuse less into it",
        )
    stream = family.op.stream
    rows, weights = (stream.rows.data, len(stream.reads)) if stream is not None else (0, 0)
    operands = [ids[access.buffer] for access in accesses]
    return [
        body,
        family.size,
        rows,
        weights,
        *operands,
        *[-1] * (MAX_OPERANDS - len(operands)),
    ]


def _execute_few(tasks: Ints, worker: Ints, workers: int, counters: _Counters) -> None:
    """Leave out the waits and signals that order nothing more than the others do.

    Tasks whose worker is none of the `workers` are given out when their event has fired.
    """
    count = len(counters.arrivals)
    executed = executed_of(
        Listed(
            np.where(worker < workers, worker, -1),
            tasks[:, TaskField.WAIT_EVENT],
            tasks[:, TaskField.WAIT_LAG],
            tasks[:, TaskField.SIGNAL_EVENT],
            frozenset(range(count - counters.peers, count)),
        )
    )
    tasks[:, TaskField.SIGNAL_AMOUNT] = executed.amounts
    tasks[executed.amounts == 0, TaskField.SIGNAL_EVENT] = -1
    known = ~executed.waits
    tasks[known, TaskField.WAIT_EVENT] = -1
    tasks[known, TaskField.WAIT_ARRIVALS] = 0
    tasks[known, TaskField.WAIT_LAG] = 0


def workers_of(module: ModuleOp) -> int:
    """How many workers run a scheduled module. Raises MpkirError for one without a schedule."""
    workers = module.attributes.get(WORKERS)
    if not isinstance(workers, IntegerAttr):
        raise MpkirError("the module has no schedule", hint="run mpk-schedule-tasks before")
    return workers.value.data


def table_of(module: ModuleOp) -> Table:
    """The table of a module.

    Raises MpkirError if it is not normalized, not scheduled, or too wide for a table.
    """
    families, bodies = families_of(module), bodies_of(module)
    workers = workers_of(module)
    ids = {op: number for number, op in enumerate(buffer_ops_of(module))}
    body_of = {name: body.index for body in bodies for name in body.families}
    counters = _counters_of(module)
    first, arrivals = counters.first, counters.arrivals
    rows: list[Ints] = []
    placed: list[Ints] = []
    slots: list[Ints] = []
    for family in families:
        op = family.op
        if op.dynamic is None and (op.workers is None or op.slots is None):
            raise MpkirError(
                "the tasks have no workers",
                where=f"@{family.name}",
                hint="run mpk-schedule-tasks before",
            )
        wait, lag = _edge(family, op.waits.data if op.waits else (), "wait for", first)
        signal, _ = _edge(family, op.signals.data if op.signals else (), "signal", first)
        table = np.zeros((family.size, len(TaskField)), np.int64)
        table[:, TaskField.FAMILY] = family.number
        table[:, TaskField.INDEX] = np.arange(family.size)
        table[:, TaskField.WAIT_EVENT] = wait
        if (wait >= 0).any():
            table[:, TaskField.WAIT_ARRIVALS] = np.array(arrivals, np.int64)[wait]
            table[:, TaskField.WAIT_LAG] = lag
        table[:, TaskField.SIGNAL_EVENT] = signal
        rows.append(table)
        # Dynamic tasks stand behind the last worker's, by the event that releases them.
        placed.append(
            np.full(family.size, workers)
            if op.workers is None
            else np.array(op.workers.get_values(), np.int64)
        )
        slots.append(wait if op.slots is None else np.array(op.slots.get_values(), np.int64))
    tasks, worker = np.concatenate(rows), np.concatenate(placed)
    order = np.lexsort((np.concatenate(slots), worker))
    tasks, worker = tasks[order], worker[order]
    static = int((worker < workers).sum())
    _execute_few(tasks, worker, workers, counters)
    rows32, arrivals32 = np.ascontiguousarray(tasks, np.int32), np.array(arrivals, np.int32)
    mark_releases(rows32, static, arrivals32)
    table = Table(
        tasks=rows32,
        workers=np.array(
            [0, *accumulate(np.bincount(worker[:static], minlength=workers))], np.int32
        ),
        families=np.array([_family_row(f, body_of[f.name], ids) for f in families], np.int32),
        events=arrivals32,
        names=TableNames(
            buffers=_names_of(tuple(ids)),
            bodies=_body_names(bodies),
            families=tuple(family.name for family in families),
            events=counters.names,
        ),
        ranks=ranks_of(module),
        peer_events=counters.peers,
    )
    table.validate()
    return table


def _body_names(bodies: tuple[Body, ...]) -> tuple[str, ...]:
    """A body is called like its tile operator and its number."""
    kinds = [
        body.tile_ops[-1].name.rpartition(".")[2] if body.tile_ops else "join" for body in bodies
    ]
    return tuple(f"{kind}_{body.index}" for kind, body in zip(kinds, bodies, strict=True))
