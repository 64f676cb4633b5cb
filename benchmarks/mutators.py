"""Ways to break a schedule in one place."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from edits import Edits, part_of
from xdsl.dialects.builtin import (
    ArrayAttr,
    DenseArrayBase,
    IntegerAttr,
    ModuleOp,
    UnitAttr,
    i64,
)
from xdsl.ir.affine import AffineExpr, AffineMap
from xdsl.utils.exceptions import VerifyException

from mpkir.dialects import event, task, tensor
from mpkir.dialects.event import EdgeAttr, Handoff, HandoffAttr
from mpkir.dialects.mesh import ranks_of


class Mutators:
    """The mutations of one module."""

    def __init__(self, module: ModuleOp) -> None:
        self.module = module
        self.grids = [op for op in module.walk() if isinstance(op, task.GridOp)]
        self.events = [op for op in module.walk() if isinstance(op, event.TensorOp)]
        self.rings = [op for op in module.walk() if isinstance(op, task.RingOp)]
        self.buffers = [op for op in module.walk() if isinstance(op, task.BufferOp)]
        views = [op for op in module.walk() if isinstance(op, task.ViewOp | task.MineOp)]
        self.values = [op.result for op in (*self.buffers, *views)]
        self._parts: dict[tuple[task.GridOp, int], list[task.GridOp]] = {}
        self.kinds: dict[str, Callable[[random.Random, Edits], None]] = {
            "drop a wait": self.drop_wait,
            "change a wait's lag": self.change_lag,
            "retarget a wait": self.retarget_wait,
            "swap two waits": self.swap_waits,
            "drop a signal": self.drop_signal,
            "retarget a signal": self.retarget_signal,
            "swap two signals": self.swap_signals,
            "change arrivals": self.change_arrivals,
            "change the hand-off": self.change_handoff,
            "swap a buffer or view": self.swap_buffer,
            "shift a box": self.shift_box,
            "swap two operands": self.swap_operands,
            "swap two places": self.swap_places,
            "move a task": self.move_task,
            "reverse a part of a list": self.reverse_list,
            "give a place twice": self.double_place,
            "make dynamic or static": self.change_dynamic,
            "change a stream": self.change_stream,
            "change the ring": self.change_ring,
            "change what crosses ranks": self.change_ranks,
        }

    def mutate(self, kind: str, rng: random.Random) -> Edits | None:
        """Change one thing of this kind; None where that comes to nothing or is no IR at all."""
        edits = Edits()
        try:
            self.kinds[kind](rng, edits)
        except _NothingToDo:
            edits.undo()
            return None
        if not edits.are_valid():
            edits.undo()
            return None
        return edits

    # --- who is changed

    def some(self, rng: random.Random, edits: Edits, wanted: Sequence[task.GridOp]) -> task.GridOp:
        """A family, or one of its tasks taken out of it."""
        grid = _choice(rng, wanted)
        if grid.size == 1 or rng.random() < 0.4:
            edits.text += f" @{grid.sym_name.data}"
            return grid
        index = rng.randrange(grid.size)
        edits.text += f" @{grid.sym_name.data}[{index}]"
        return self.taken_out(edits, grid, index)

    def taken_out(self, edits: Edits, grid: task.GridOp, index: int) -> task.GridOp:
        """Split a family in the tasks before one, that one, and those after it."""
        if (grid, index) not in self._parts:
            bounds = {"to": (0, index), "one": (index, index + 1), "from": (index + 1, grid.size)}
            self._parts[grid, index] = [
                part_of(grid, name, a, b) for name, (a, b) in bounds.items() if a < b
            ]
        parts = self._parts[grid, index]
        edits.replace(grid, parts)
        return next(part for part in parts if part.sym_name.data.endswith(".one"))

    def with_waits(self) -> list[task.GridOp]:
        return [grid for grid in self.grids if grid.waits]

    def with_signals(self) -> list[task.GridOp]:
        return [grid for grid in self.grids if grid.signals]

    def counter(self, rng: random.Random, edits: Edits, rank: int, lag: int) -> EdgeAttr:
        """An edge to any counter."""
        op = _choice(rng, self.events)
        number = rng.randrange(op.counters.value.data)
        edits.text += f" -> @{op.sym_name.data}[{number}]"
        return EdgeAttr(op.sym_name.data, _constant(rank, number), lag)

    # --- waits

    def drop_wait(self, rng: random.Random, edits: Edits) -> None:
        grid = self.some(rng, edits, self.with_waits())
        edits.set(grid, "waits", None)

    def change_lag(self, rng: random.Random, edits: Edits) -> None:
        grid = self.some(rng, edits, self.with_waits())
        assert grid.waits is not None
        edges = [EdgeAttr(e.event, e.index, 1 - e.lag.data) for e in grid.waits]
        edits.set(grid, "waits", ArrayAttr(edges))

    def retarget_wait(self, rng: random.Random, edits: Edits) -> None:
        grid = self.some(rng, edits, self.with_waits())
        assert grid.waits is not None
        (edge, *_) = grid.waits
        if rng.random() < 0.3 and len(grid.grid) == 1:
            shift = rng.choice([-1, 1, 2])
            (expression,) = edge.index.data.results
            edits.text += f" {shift:+}"
            moved = EdgeAttr(edge.event, AffineMap(1, 0, (expression + shift,)), edge.lag)
        else:
            lag = edge.lag.data if rng.random() < 0.8 else 1 - edge.lag.data
            edits.text += f" lag {lag}"
            moved = self.counter(rng, edits, len(grid.grid), lag)
        edits.set(grid, "waits", ArrayAttr([moved]))

    def swap_waits(self, rng: random.Random, edits: Edits) -> None:
        one = self.some(rng, edits, self.with_waits())
        rest = [grid for grid in self.with_waits() if grid.parent is not None]
        other = self.some(rng, edits, rest)
        self.swap_edges(edits, one, other, "waits")

    def swap_edges(self, edits: Edits, one: task.GridOp, other: task.GridOp, name: str) -> None:
        if len(one.grid) != len(other.grid) or one is other:
            raise _NothingToDo
        mine, yours = one.properties[name], other.properties[name]
        if mine == yours:
            raise _NothingToDo
        edits.set(one, name, yours)
        edits.set(other, name, mine)

    # --- signals and counts

    def drop_signal(self, rng: random.Random, edits: Edits) -> None:
        grid = self.some(rng, edits, self.with_signals())
        counters = _counters(grid)
        edits.set(grid, "signals", None)
        if rng.random() < 0.7:
            edits.text += " counted"
            self.count(edits, counters, -1)

    def retarget_signal(self, rng: random.Random, edits: Edits) -> None:
        grid = self.some(rng, edits, self.with_signals())
        counters = _counters(grid)
        moved = self.counter(rng, edits, len(grid.grid), 0)
        edits.set(grid, "signals", ArrayAttr([moved]))
        if rng.random() < 0.7:
            edits.text += " counted"
            self.count(edits, counters, -1)
            self.count(edits, _counters(grid), 1)

    def swap_signals(self, rng: random.Random, edits: Edits) -> None:
        one = self.some(rng, edits, self.with_signals())
        rest = [grid for grid in self.with_signals() if grid.parent is not None]
        other = self.some(rng, edits, rest)
        before = [*_counters(one), *_counters(other)]
        self.swap_edges(edits, one, other, "signals")
        if rng.random() < 0.5:
            edits.text += " counted"
            self.count(edits, before, -1)
            self.count(edits, [*_counters(one), *_counters(other)], 1)

    def count(self, edits: Edits, counters: Sequence[tuple[str, int]], more: int) -> None:
        """Let counters expect so many arrivals more for each time they are named."""
        for op in self.events:
            each = list(op.arrivals_of_each)
            for name, number in counters:
                if name == op.sym_name.data and 0 <= number < len(each):
                    each[number] += more
            if tuple(each) != op.arrivals_of_each:
                # A counter that nobody signals any more keeps an arrival, which never comes.
                kept = [max(1, n) for n in each]
                edits.set(op, "arrivals", DenseArrayBase.from_list(i64, kept))

    def change_arrivals(self, rng: random.Random, edits: Edits) -> None:
        op = _choice(rng, self.events)
        each = list(op.arrivals_of_each)
        at = rng.randrange(len(each))
        each[at] = rng.choice([each[at] - 1, each[at] + 1, each[at] // 2, 1, each[at] * 2])
        edits.text += f" @{op.sym_name.data}[{at}] = {each[at]}"
        if tuple(each) == op.arrivals_of_each:
            raise _NothingToDo
        edits.set(op, "arrivals", DenseArrayBase.from_list(i64, each))

    def change_handoff(self, rng: random.Random, edits: Edits) -> None:
        op = _choice(rng, self.events)
        kind = rng.choice([each for each in Handoff if each is not op.handoff.data])
        edits.text += f" @{op.sym_name.data} {kind.value}"
        edits.set(op, "handoff", HandoffAttr(kind))

    # --- buffers

    def swap_buffer(self, rng: random.Random, edits: Edits) -> None:
        grid = self.some(rng, edits, self.grids)
        if not grid.operands:
            raise _NothingToDo
        at = rng.randrange(len(grid.operands))
        old = grid.operands[at]
        value = _choice(rng, [v for v in self.values if v is not old and v.type == old.type])
        edits.text += f" {at} is {task.buffer_of(value).sym.data}"
        edits.operand(grid, at, value)

    def shift_box(self, rng: random.Random, edits: Edits) -> None:
        grid = self.some(rng, edits, self.grids)
        if not grid.boxes.data:
            raise _NothingToDo
        at = rng.randrange(len(grid.boxes.data))
        box = grid.boxes.data[at]
        dim = rng.randrange(len(box.shape))
        shift = rng.choice([-1, 1, -box.shape[dim], box.shape[dim]])
        results = list(box.offsets.data.results)
        results[dim] = results[dim] + shift
        moved = task.RegionAttr(AffineMap(len(grid.grid), 0, tuple(results)), box.shape)
        boxes = [moved if i == at else each for i, each in enumerate(grid.boxes.data)]
        edits.text += f" {at} dim {dim} by {shift}"
        edits.set(grid, "boxes", ArrayAttr(boxes))
        edits.touches_buffers = True

    def swap_operands(self, rng: random.Random, edits: Edits) -> None:
        grid = self.some(rng, edits, self.grids)
        operands = list(grid.operands)
        pairs = [
            (i, j)
            for i, one in enumerate(operands)
            for j, other in enumerate(operands[:i])
            if one.type == other.type and one is not other
        ]
        i, j = _choice(rng, pairs)
        edits.text += f" {i} and {j}"
        edits.operand(grid, i, operands[j])
        edits.operand(grid, j, operands[i])

    # --- places

    def places(self) -> list[tuple[int, int, task.GridOp, int]]:
        """Worker, slot, family and index of each task that has a place, in order."""
        result: list[tuple[int, int, task.GridOp, int]] = []
        for grid in self.grids:
            if grid.workers is None or grid.slots is None:
                continue
            pairs = zip(grid.workers.get_values(), grid.slots.get_values(), strict=True)
            result += [(worker, slot, grid, i) for i, (worker, slot) in enumerate(pairs)]
        if not result:
            raise _NothingToDo
        return sorted(result, key=lambda place: place[:2])

    def lists(self) -> list[list[tuple[task.GridOp, int]]]:
        """Each worker's tasks in order."""
        workers = self.module.attributes["mpk.workers"]
        assert isinstance(workers, IntegerAttr)
        result: list[list[tuple[task.GridOp, int]]] = [[] for _ in range(workers.value.data)]
        for worker, _, grid, index in self.places():
            result[worker].append((grid, index))
        return result

    def put(self, edits: Edits, lists: Sequence[Sequence[tuple[task.GridOp, int]]]) -> None:
        """Place tasks as these lists say."""
        found: dict[task.GridOp, list[tuple[int, int]]] = {}
        for worker, tasks in enumerate(lists):
            for slot, (grid, index) in enumerate(tasks):
                found.setdefault(grid, [(0, 0)] * grid.size)[index] = (worker, slot)
        for grid, places in found.items():
            workers = DenseArrayBase.from_list(i64, [worker for worker, _ in places])
            slots = DenseArrayBase.from_list(i64, [slot for _, slot in places])
            if (grid.workers, grid.slots) != (workers, slots):
                edits.set(grid, "workers", workers)
                edits.set(grid, "slots", slots)

    def swap_places(self, rng: random.Random, edits: Edits) -> None:
        lists = self.lists()
        near = rng.random() < 0.5
        full = [tasks for tasks in lists if len(tasks) > 1]
        if near:
            one = _choice(rng, full)
            at = rng.randrange(len(one) - 1)
            other, to = one, at + 1
        else:
            one, other = (
                _choice(rng, [t for t in lists if t]),
                _choice(rng, [t for t in lists if t]),
            )
            at, to = rng.randrange(len(one)), rng.randrange(len(other))
        if one is other and at == to:
            raise _NothingToDo
        edits.text += f" {_name(one[at])} and {_name(other[to])}"
        one[at], other[to] = other[to], one[at]
        self.put(edits, lists)

    def move_task(self, rng: random.Random, edits: Edits) -> None:
        lists = self.lists()
        source = _choice(rng, [tasks for tasks in lists if tasks])
        at = rng.randrange(len(source))
        moved = source.pop(at)
        worker = rng.randrange(len(lists))
        to = rng.randrange(len(lists[worker]) + 1)
        if lists[worker] is source and to == at:
            raise _NothingToDo
        lists[worker].insert(to, moved)
        edits.text += f" {_name(moved)} to {worker}:{to}"
        self.put(edits, lists)

    def reverse_list(self, rng: random.Random, edits: Edits) -> None:
        lists = self.lists()
        tasks = _choice(rng, [tasks for tasks in lists if len(tasks) > 2])
        begin = rng.randrange(len(tasks) - 2)
        end = min(len(tasks), begin + rng.randrange(3, 6))
        edits.text += f" {_name(tasks[begin])} .. {_name(tasks[end - 1])}"
        tasks[begin:end] = tasks[begin:end][::-1]
        self.put(edits, lists)

    def double_place(self, rng: random.Random, edits: Edits) -> None:
        _, _, grid, index = _choice(rng, self.places())
        worker, slot, _, _ = _choice(rng, self.places())
        assert grid.workers is not None
        assert grid.slots is not None
        workers, slots = list(grid.workers.get_values()), list(grid.slots.get_values())
        if (workers[index], slots[index]) == (worker, slot):
            raise _NothingToDo
        workers[index], slots[index] = worker, slot
        edits.text += f" {_name((grid, index))} at {worker}:{slot}"
        edits.set(grid, "workers", DenseArrayBase.from_list(i64, workers))
        edits.set(grid, "slots", DenseArrayBase.from_list(i64, slots))

    def change_dynamic(self, rng: random.Random, edits: Edits) -> None:
        grid = _choice(rng, self.grids)
        lists = self.lists() if any(each.workers for each in self.grids) else [[]]
        edits.text += f" @{grid.sym_name.data}"
        if grid.dynamic is not None:
            for index in range(grid.size):
                tasks = _choice(rng, lists)
                tasks.insert(rng.randrange(len(tasks) + 1), (grid, index))
            edits.set(grid, "dynamic", None)
            edits.text += f" {rng.getrandbits(16)}"
            self.put(edits, lists)
            return
        self.put(edits, [[t for t in tasks if t[0] is not grid] for tasks in lists])
        for name in ("workers", "slots", "stream"):
            edits.set(grid, name, None)
        edits.set(grid, "dynamic", UnitAttr())

    # --- the ring

    def change_stream(self, rng: random.Random, edits: Edits) -> None:
        streaming = [grid for grid in self.grids if grid.stream is not None]
        linear = [
            grid
            for grid in self.grids
            if any(isinstance(op, tensor.LinearOp) for op in grid.body.block.ops)
        ]
        kind = rng.choice(["drop", "twice", "another", "order", "rows", "parts", "new"])
        edits.text += f" {kind}"
        if kind == "new":
            grid = self.some(rng, edits, [g for g in self.grids if g.stream is None and g.reads])
            read, rows = rng.randrange(len(grid.reads)), rng.randint(1, 4)
            edits.text += f" {read} {rows}"
            edits.set(grid, "stream", task.StreamAttr([read], rows, 1))
            return
        grid = self.some(rng, edits, streaming or linear)
        stream = grid.stream
        if stream is None:
            raise _NothingToDo
        reads, rows, parts = list(stream.reads), stream.rows.data, stream.parts.data
        match kind:
            case "drop":
                at = rng.randrange(len(reads))
                del reads[at]
                edits.text += f" {at}"
                if not reads:
                    edits.set(grid, "stream", None)
                    return
            case "twice":
                reads.insert(rng.randrange(len(reads) + 1), rng.choice(reads))
            case "another":
                reads[rng.randrange(len(reads))] = rng.randrange(len(grid.reads) + 1)
            case "order":
                rng.shuffle(reads)
            case "rows":
                rows = rng.choice([rows + 1, max(1, rows - 1), rows * 2, rows * 16])
            case _:
                rows, parts = 1, rng.choice([2, 3, 5, 64, 1 << 20])
        if (tuple(reads), rows, parts) == (stream.reads, stream.rows.data, stream.parts.data):
            raise _NothingToDo
        try:
            changed = task.StreamAttr(reads, rows, parts)
        except VerifyException as error:  # no schedule that anyone could write
            raise _NothingToDo from error
        edits.text += f" {reads} {rows} {parts}"
        edits.set(grid, "stream", changed)

    def change_ring(self, rng: random.Random, edits: Edits) -> None:
        ring = _choice(rng, self.rings)
        name = rng.choice(["slots", "bytes", "in_flight"])
        value = ring.properties[name]
        assert isinstance(value, IntegerAttr)
        old = value.value.data
        new = rng.choice([old // 2, old * 2, old - 16, old + 16, 16, 1, old - 1, old + 1])
        if new == old:
            raise _NothingToDo
        edits.text += f" {name} {new}"
        edits.set(ring, name, IntegerAttr(new, i64))

    # --- ranks

    def change_ranks(self, rng: random.Random, edits: Edits) -> None:
        ranks = ranks_of(self.module)
        if ranks == 1:
            raise _NothingToDo
        if rng.random() < 0.5:
            buffer = _choice(rng, self.buffers)
            edits.text += f" tags of {buffer.sym.data}"
            edits.set(buffer, "flagged", UnitAttr() if buffer.flagged is None else None)
            return
        op = _choice(rng, self.events)
        each = op.local_arrivals(ranks)
        kind = Handoff.COUNTER if op.handoff.data is Handoff.PEER else Handoff.PEER
        if kind is Handoff.PEER:
            each = [ranks * n for n in each]
        edits.text += f" @{op.sym_name.data} {kind.value}"
        edits.set(op, "handoff", HandoffAttr(kind))
        edits.set(op, "arrivals", DenseArrayBase.from_list(i64, each))


class _NothingToDo(Exception):
    """A mutation finds nothing that it could change."""


def _choice(rng: random.Random, of: Sequence[Any]) -> Any:
    if not of:
        raise _NothingToDo
    return rng.choice(of)


def _name(placed: tuple[task.GridOp, int]) -> str:
    return f"{placed[0].sym_name.data}[{placed[1]}]"


def _constant(rank: int, number: int) -> AffineMap:
    return AffineMap(rank, 0, (AffineExpr.constant(number),))


def _counters(grid: task.GridOp) -> list[tuple[str, int]]:
    """The counters that a family's tasks signal, by event and number, one for each signal."""
    return [
        (edge.symbol, edge.counter(grid.coordinates(index)))
        for edge in grid.signals or ()
        for index in range(grid.size)
    ]
