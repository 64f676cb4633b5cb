"""Random programs of several ranks: their order through every pass, against that of all ranks spelt
out, and proven and played.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, UnitAttr
from xdsl.parser import Parser
from xdsl.passes import ModulePass

from mpkir.analysis.happens_before import happens_before
from mpkir.analysis.schedule import schedule_of
from mpkir.backends.interpreter.atoms import Atoms
from mpkir.backends.interpreter.families import families_of
from mpkir.backends.interpreter.symbolic import Shapes, SymbolicProgram
from mpkir.dialects import event, task
from mpkir.dialects.event import Handoff
from mpkir.dialects.mesh import ranks_of
from mpkir.errors import MpkirError
from mpkir.passes.eliminate_dependencies import EliminateDependenciesPass
from mpkir.passes.fuse_events import FuseEventsPass
from mpkir.passes.linearize_tasks import LinearizeTasksPass
from mpkir.passes.lower_dependencies import LowerDependenciesPass
from mpkir.passes.merge_events import MergeEventsPass
from mpkir.passes.normalize_events import NormalizeEventsPass
from mpkir.passes.plan_memory import PlanMemoryPass
from mpkir.passes.schedule_tasks import ScheduleTasksPass
from mpkir.passes.verify_schedule import VerifySchedulePass
from mpkir.pipeline import context

SIZE = 12
TILES = [1, 2, 3, 4]
KEEPING = (FuseEventsPass(), MergeEventsPass(), EliminateDependenciesPass())
"""Passes after which no two tasks have another order."""
QUICK = settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=25)


@st.composite
def programs(draw: st.DrawFn, flags: bool = True) -> str:
    """Families of which each writes a buffer of its own in tiles, its row of one that all ranks
    exchange, a value of which each rank gets a part, or one of these once more; and reads some
    before: all, its tile, one rank's row.
    """
    ranks, count = draw(st.sampled_from([2, 3])), draw(st.integers(2, 5))
    own, all_rows = f"memref<{SIZE}xf32>", f"memref<{ranks}x{SIZE}xf32>"
    lines = [f'%s = mpk_task.buffer state "s" : {own}']
    readable: list[tuple[str, str]] = []
    again: list[int] = []
    for number in range(count):
        tasks = draw(st.sampled_from(TILES))
        is_last = number == count - 1
        chosen = (
            draw(st.lists(st.sampled_from(readable), max_size=2, unique=True)) if number else []
        )
        if is_last or (number and not chosen):
            chosen = chosen or [readable[-1]]
        reads = [(name, type, draw(st.booleans())) for name, type in chosen]
        if not number:
            reads = [("%s", own, False)]
        flag = " flagged" if flags and draw(st.booleans()) else ""
        if is_last:
            target = "%s"
        elif again and draw(st.booleans()):
            # What the tasks of all ranks read while others of them write it has no order.
            other = draw(st.sampled_from(again))
            target = f"%m{other}"
            reads = [each for each in reads if each[0] not in (f"%b{other}", f"%r{other}")]
            reads = reads or [("%s", own, False)]
        elif (kind := draw(st.sampled_from(["own", "mine", "scatter"]))) == "scatter":
            target, row = f"%m{number}", f"%r{number}"
            part, size = f"memref<{ranks}x{SIZE // ranks}xf32>", SIZE // ranks
            view = f"memref<{size}xf32, strided<[1], offset: {size}>>"
            lines += [
                f'%b{number} = mpk_task.buffer scratch "b{number}" exchange{flag} : {part}',
                f"{target} = mpk_task.scatter %b{number} dim 0 : {part} to {own}",
                f"{row} = mpk_task.view %b{number} : {part} to {view}",
            ]
            readable += [(f"%b{number}", part), (row, view)]
            again += [] if flag else [number]
        elif kind == "mine":
            target, row = f"%m{number}", f"%r{number}"
            lines += [
                f'%b{number} = mpk_task.buffer scratch "b{number}" exchange{flag} : {all_rows}',
                f"{target} = mpk_task.mine %b{number} : {all_rows} to {own}",
                f"{row} = mpk_task.view %b{number} : {all_rows} to {_row(1)}",
            ]
            readable += [(f"%b{number}", all_rows), (row, _row(1))]
            again += [] if flag else [number]
        else:
            target = f"%b{number}"
            lines.append(f'{target} = mpk_task.buffer scratch "b{number}"{flag} : {own}')
            readable.append((target, own))
        lines.append(_family(number, tasks, reads, target, ranks))
    return _module(ranks, "\n".join(lines))


def _module(ranks: int, text: str) -> str:
    attributes = f"attributes {{mpk.mesh = {{tp = {ranks}}}}}"
    return f"module {attributes} {{\nfunc.func @step() {{\n{text}\nfunc.return\n}}\n}}"


def _row(rank: int) -> str:
    return f"memref<{SIZE}xf32, strided<[1], offset: {rank * SIZE}>>"


def _family(
    number: int, tasks: int, reads: Sequence[tuple[str, str, bool]], target: str, ranks: int
) -> str:
    """Reads: a buffer or view, its type, whether only the task's tile of it."""
    boxes, tiles = list[str](), list[str]()
    for _, type, is_tile in reads:
        columns = int(re.findall(r"(\d+)xf32", type)[0])
        rows = -(-columns // tasks)
        offset, size = (f"d0 * {rows}", rows) if is_tile else ("0", columns)
        rest = type.startswith(f"memref<{ranks}x")
        boxes.append(f"({'0, ' if rest else ''}{offset})>, [{f'{ranks}, ' if rest else ''}{size}]")
        tiles.append(f"{f'{ranks}x' if rest else ''}{size}xf32")
    rows = SIZE // tasks
    boxes.append(f"(d0 * {rows})>, [{rows}]")
    regions = ", ".join(f"#mpk_task.region<affine_map<(d0) -> {each}>" for each in boxes)
    names, types = ", ".join(r[0] for r in reads), ", ".join(r[1] for r in reads)
    arguments = ", ".join(f"%a{number}_{i} : tensor<{tile}>" for i, tile in enumerate(tiles))
    return f"""
      mpk_task.grid @f{number} [{tasks}] reads({names} : {types})
          writes({target} : memref<{SIZE}xf32>) boxes [{regions}] {{
      ^bb0({arguments}):
        %v{number} = mpk_tensor.full 1.0 : f32 : tensor<{rows}xf32>
        mpk_task.yield %v{number} : tensor<{rows}xf32>
      }}"""


def parsed(text: str) -> ModuleOp:
    module = Parser(context(), text).parse_module()
    module.verify()
    return module


def after(module: ModuleOp, *passes: ModulePass) -> ModuleOp:
    for each in passes:
        each.apply(Context(), module)
    module.verify()
    return module


def scheduled(text: str, workers: int, policy: str) -> ModuleOp:
    return after(
        parsed(text),
        PlanMemoryPass(),
        LowerDependenciesPass(),
        *KEEPING,
        NormalizeEventsPass(),
        LinearizeTasksPass(),
        ScheduleTasksPass(workers=workers, policy=policy),
    )


class Spelt:
    """Two steps of all ranks, task by task: who comes before whom by events and lists alone."""

    def __init__(self, module: ModuleOp) -> None:
        self.ranks = ranks_of(module)
        self.grids = [op for op in module.walk() if isinstance(op, task.GridOp)]
        self.tasks = [(op, index) for op in self.grids for index in range(op.size)]
        count = len(self.tasks) * self.ranks * 2
        self.before = np.eye(count, dtype=bool)
        for earlier, later in (*self._by_events(module), *self._by_lists()):
            self.before[later, earlier] = True
        for _ in range(count.bit_length()):
            self.before = (self.before.astype(np.float32) @ self.before) > 0
        np.fill_diagonal(self.before, False)

    def node(self, step: int, rank: int, number: int) -> int:
        return (step * self.ranks + rank) * len(self.tasks) + number

    def pairs(self, step: int, everywhere: bool) -> np.ndarray:
        """[later, earlier]: tasks of rank 0 in `step`, and of step 0, of rank 0 or another."""
        size, rank = len(self.tasks), int(everywhere)
        later = slice(self.node(step, 0, 0), self.node(step, 0, size))
        return self.before[later, self.node(0, rank, 0) : self.node(0, rank, size)]

    def _by_events(self, module: ModuleOp) -> Iterator[tuple[int, int]]:
        for tensor in (op for op in module.walk() if isinstance(op, event.TensorOp)):
            signals = self._uses("signals", tensor)
            for number, counter, lag in self._uses("waits", tensor):
                for source, told, _ in signals:
                    if told != counter:
                        continue
                    for rank in range(self.ranks):
                        crosses = tensor.handoff.data is Handoff.PEER
                        for other in range(self.ranks) if crosses else (rank,):
                            for step in range(2 - lag):
                                earlier = self.node(step, other, source)
                                yield earlier, self.node(step + lag, rank, number)

    def _uses(self, side: str, tensor: event.TensorOp) -> list[tuple[int, int, int]]:
        return [
            (number, edge.counter(op.coordinates(index)), edge.lag.data)
            for number, (op, index) in enumerate(self.tasks)
            for edge in getattr(op, side) or ()
            if edge.symbol == tensor.sym_name.data
        ]

    def _by_lists(self) -> Iterator[tuple[int, int]]:
        lists: dict[int, list[tuple[int, int]]] = {}
        for number, (op, index) in enumerate(self.tasks):
            if op.workers is not None and op.slots is not None:
                worker, slot = op.workers.get_values()[index], op.slots.get_values()[index]
                lists.setdefault(worker, []).append((slot, number))
        for each in lists.values():
            numbers = [number for _, number in sorted(each)]
            for rank in range(self.ranks):
                nodes = [self.node(step, rank, number) for step in (0, 1) for number in numbers]
                yield from pairwise(nodes)


@given(programs(flags=False))
@QUICK
def test_passes_keep_the_order_between_ranks(text: str) -> None:
    module = after(parsed(text), LowerDependenciesPass())
    wanted = Spelt(module).before
    for each in KEEPING:
        np.testing.assert_array_equal(Spelt(after(module, each)).before, wanted)


@given(programs(flags=False), st.integers(1, 3))
@QUICK
def test_clocks_know_what_is_done_on_all_ranks(text: str, workers: int) -> None:
    module = scheduled(text, workers, "round-robin")
    spelt, done = Spelt(module), happens_before(schedule_of(module))
    numbers = np.arange(len(spelt.tasks))
    for step in (0, 1):
        for everywhere in (False, True):
            wanted = spelt.pairs(step, everywhere)
            for later in numbers.tolist():
                found = done.ordered(numbers, np.full(len(numbers), later), step, everywhere)
                found[later] &= step > 0
                np.testing.assert_array_equal(found, wanted[later])


def play(module: ModuleOp, seed: int) -> None:
    families = families_of(module, Shapes(module))
    program = SymbolicProgram(module, families, Atoms(families, ranks_of(module)))
    program.check(program.orders([seed, seed + 1]))


@given(programs(), st.integers(1, 3), st.sampled_from(["round-robin", "list"]), st.integers(0, 99))
@QUICK
def test_order_is_proven_and_played(text: str, workers: int, policy: str, seed: int) -> None:
    module = scheduled(text, workers, policy)
    VerifySchedulePass().apply(Context(), module)
    play(module, seed)


@given(programs(), st.integers(1, 3), st.data())
@QUICK
def test_what_the_proof_accepts_can_be_played(text: str, workers: int, data: st.DataObject) -> None:
    """With a wait less, a flag more, or an event that does not cross: refused, or right."""
    module = scheduled(text, workers, "round-robin")
    ops = list(module.walk())
    events = [op for op in ops if isinstance(op, event.TensorOp)]
    peers = [op for op in events if op.handoff.data is Handoff.PEER]
    buffers = [op for op in ops if isinstance(op, task.BufferOp) and op.sym.data != "s"]
    kind = data.draw(st.sampled_from(["wait", "flag", "peer"]))
    if kind == "wait":
        data.draw(st.sampled_from([op for op in ops if isinstance(op, task.GridOp)])).waits = None
    elif kind == "flag" and buffers:
        data.draw(st.sampled_from(buffers)).flagged = UnitAttr()
    else:
        op = data.draw(st.sampled_from(peers))
        local = op.local_arrivals(ranks_of(module))
        op.properties.update(
            event.TensorOp("e", len(local), local).properties | {"sym_name": op.sym_name}
        )
    try:
        VerifySchedulePass().apply(Context(), module)
    except MpkirError:
        return
    play(module, 0)


def test_no_task_is_given_out_where_ranks_wait_for_each_other() -> None:
    all_rows = f"memref<2x{SIZE}xf32>"
    lines = [
        f'%s = mpk_task.buffer state "s" : memref<{SIZE}xf32>',
        f'%b = mpk_task.buffer scratch "b" exchange : {all_rows}',
        f"%m = mpk_task.mine %b : {all_rows} to memref<{SIZE}xf32>",
        _family(0, 2, [("%s", f"memref<{SIZE}xf32>", False)], "%m", 2),
        _family(1, 3, [("%b", all_rows, False)], "%s", 2),
    ]
    text = "\n".join(lines)
    module = _module(2, text)
    with pytest.raises(MpkirError, match=r"policy 'dynamic' gives tasks out .* several ranks run"):
        scheduled(module, 2, "dynamic")


def _scattering(first: str, then: str) -> str:
    """A is written and read, which is scattered; what each makes of its part is written, read, and
    that written as A again. A (`first`) and what is made (`then`) are sent to "all" or the "own".
    """
    whole, rows, part = f"memref<{SIZE}xf32>", f"memref<2x{SIZE}xf32>", f"memref<2x{SIZE // 2}xf32>"

    def buffer(name: str, to: str, flag: str = "") -> tuple[list[str], str, tuple[str, str, bool]]:
        if to == "own":
            line = f'%{name} = mpk_task.buffer scratch "{name}"{flag} : {whole}'
            return [line], f"%{name}", (f"%{name}", whole, False)
        lines = [
            f'%{name} = mpk_task.buffer scratch "{name}" exchange{flag} : {rows}',
            f"%m{name} = mpk_task.mine %{name} : {rows} to {whole}",
        ]
        return lines, f"%m{name}", (f"%{name}", rows, False)

    a, to_a, from_a = buffer("a", first)
    c, to_c, from_c = buffer("c", then, " flagged")
    lines = [
        f'%s = mpk_task.buffer state "s" : {whole}',
        *a,
        f'%b = mpk_task.buffer scratch "b" exchange flagged : {part}',
        f"%mb = mpk_task.scatter %b dim 0 : {part} to {whole}",
        *c,
        _family(0, 1, [("%s", whole, False)], to_a, 2),
        _family(1, 2, [from_a], "%mb", 2),
        _family(2, 1, [("%b", part, False)], to_c, 2),
        _family(3, 1, [from_c], to_a, 2),
        _family(4, 1, [from_a], "%s", 2),
    ]
    return _module(2, "\n".join(lines))


def _family_of(module: ModuleOp, name: str) -> task.GridOp:
    grids = (op for op in module.walk() if isinstance(op, task.GridOp))
    return next(op for op in grids if op.sym_name.data == name)


@pytest.mark.parametrize("first", ["all", "own"])
def test_who_reads_its_part_of_what_is_scattered_knows_nothing_of_others(first: str) -> None:
    module = scheduled(_scattering(first, "own"), 3, "round-robin")
    VerifySchedulePass().apply(Context(), module)
    play(module, 0)
    _family_of(module, "f3").waits = None
    with pytest.raises(MpkirError, match=r"f1.* reads 'a' and .*f3.* writes the same"):
        VerifySchedulePass().apply(Context(), module)
    with pytest.raises(MpkirError):
        play(module, 0)


@pytest.mark.parametrize("first", ["all", "own"])
def test_what_all_have_read_of_what_is_scattered_is_known_together(first: str) -> None:
    module = scheduled(_scattering(first, "all"), 3, "round-robin")
    _family_of(module, "f3").waits = None
    VerifySchedulePass().apply(Context(), module)
    for seed in range(20):
        play(module, seed)
