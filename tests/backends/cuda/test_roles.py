"""The roles of the kernel, as they are, on threads: queues of dynamic tasks beside lists of others.

A warp is one thread, a copy lands at once (host/roles/); lists, events, offers, stops and faults
are those of runtime.cuh, queue.cuh and dynamic.cuh.
"""

from __future__ import annotations

import ctypes
import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from mpkir.runtime.build_cuda import INCLUDE
from mpkir.runtime.hang import Hang
from mpkir.runtime.launch import Answer, Control, GpuLaunchArgs, Stand
from mpkir.runtime.queues import dynamic_part, looked_up, queue_words
from mpkir.runtime.recording import MACRO, MARKS, VARIABLE, Tracing
from mpkir.runtime.table import Table, TableNames, TaskField, build_table

HOST = Path(__file__).parent / "host" / "roles"
PLAIN, STREAM, STAGED = 0, 1, 2


@dataclass(frozen=True)
class Family:
    """Tasks of a layer; all of them read what the layer before made."""

    size: int
    body: int = PLAIN
    dynamic: bool = False


@dataclass
class Net:
    """Layers of families, one after another; the first reads what the last made a step before."""

    layers: list[list[Family]]
    workers: int
    seed: int = 0
    families: list[tuple[int, int, Family]] = field(default_factory=list)
    """(layer, first place in the layer's numbers, family)."""

    def __post_init__(self) -> None:
        for number, layer in enumerate(self.layers):
            first = 0
            for family in layer:
                self.families.append((number, first, family))
                first += family.size

    def sizes(self) -> list[int]:
        return [sum(family.size for family in layer) for layer in self.layers]

    def table(self) -> Table:
        rng = random.Random(self.seed)
        count, sizes = len(self.layers), self.sizes()
        lists: list[list[tuple[int, ...]]] = [[] for _ in range(self.workers)]
        dynamic: list[tuple[int, ...]] = []
        rows: list[list[int]] = []
        for number, (layer, _, family) in enumerate(self.families):
            rows.append([family.body, family.size, 0, 0, *(3 * number + k for k in range(3))])
            for index in range(family.size):
                before = (layer - 1) % count
                row = (number, index, before, sizes[before], int(layer == 0), layer, 1)
                (dynamic if family.dynamic else rng.choice(lists)).append(row)
        kinds = ("x", "w", "y")
        names = TableNames(
            tuple(f"{kind}{n}" for n in range(len(self.families)) for kind in kinds),
            ("plain", "stream", "staged"),
            tuple(f"f{n}" for n in range(len(self.families))),
            tuple(f"e{n}" for n in range(count)),
        )
        return build_table(lists, rows, sizes, names, dynamic)


class Running:
    """A net on threads, and what it should make."""

    def __init__(self, library: ctypes.CDLL, net: Net) -> None:
        self.library, self.net, self.table = library, net, net.table()
        rng = np.random.default_rng(net.seed)
        self.made = [np.zeros(1 + size, np.int64) for size in net.sizes()]
        for numbers, size in zip(self.made, net.sizes(), strict=True):
            numbers[0] = size
        self.weights = [rng.integers(0, 1000, family.size) for _, _, family in net.families]
        addresses: list[int] = []
        for (layer, first, _), weight in zip(net.families, self.weights, strict=True):
            x, y = self.made[layer - 1], self.made[layer]
            addresses += [x.ctypes.data, weight.ctypes.data, y.ctypes.data + 8 * first]
        self.pointers = np.array(addresses, np.uint64)
        self.counters = np.zeros(len(self.table.events), np.uint32)
        self.stands = (Stand * net.workers)()
        self.queues = np.zeros((net.workers, queue_words(self.table)), np.uint64)
        self.released = self.table.released
        self.tasks = looked_up(self.table, self.pointers)
        self.epoch = self.done = 0
        self.expected = [0] * net.sizes()[-1]
        self.own: dict[int, list[int]] = {}
        """By family, what its tasks are to have made last."""
        self.told = np.zeros(self.table.task_count, np.uint64)

    def run(self, position: int, steps: int, watchdog: float = 20.0) -> int:
        self.answer = Answer(stop_at=steps)
        self.control = Control(
            stop_at=2**31 - 1,
            events=len(self.counters),
            stands=ctypes.addressof(self.stands),
            answer=ctypes.addressof(self.answer),
            told=self.told.ctypes.data,
        )
        args = GpuLaunchArgs(
            self.pointers.ctypes.data,
            self.table.tasks.ctypes.data,
            self.table.workers.ctypes.data,
            self.table.families.ctypes.data,
            self.counters.ctypes.data,
            ctypes.addressof(self.control),
            position,
            steps,
            self.epoch,
            int(watchdog * 1e9),
            dynamic_part(self.table, self.released.ctypes.data, self.queues.ctypes.data),
            self.tasks.ctypes.data,
        )
        fault = self.library.mpk_run(ctypes.byref(args), self.net.workers)
        assert self.answer.fault == fault
        done = min(self.answer.stop_at, steps)
        self.epoch += done
        self.done = done
        return done if fault == 0 else -fault

    def to_be_told(self) -> list[int]:
        """What cooperative tasks have told the host, with the number of the last step."""
        words: list[int] = []
        for number, index in self.table.tasks[:, :2].tolist():
            layer, first, family = self.net.families[number]
            made = int(self.made[layer][1 + first + index])
            words.append(self.epoch << 32 | made if family.body == PLAIN else 0)
        return words

    def report(self, table: Table) -> str:
        """Of a launch that the watchdog ended, to who knows this table."""
        stands = list(self.stands)
        hang = Hang(table, self.control, stands, self.counters, self.epoch - self.done)
        return str(hang.error(0.2))

    def play(self, position: int, steps: int) -> None:
        """The same, one task after another."""
        for step in range(steps):
            before, number = self.expected, 0
            for layer in self.net.layers:
                total, made = sum(before), []
                for family in layer:
                    again = (position + step) % 3 if family.body == STAGED else 0
                    own = self.own.setdefault(number, [0] * family.size)
                    own[:] = [
                        (31 * (total + again * last) + int(weight) + i + position + step)
                        & 0x7FFFFFFF
                        for i, (weight, last) in enumerate(
                            zip(self.weights[number], own, strict=True)
                        )
                    ]
                    made += own
                    number += 1
                before = made
            self.expected = before


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Net], Running]:
    folder = tmp_path_factory.mktemp("roles")
    for name in ("abi", "bodies", "dispatcher", "dynamic", "peers", "queue", "runtime", "trace"):
        text = (INCLUDE / "mpk" / f"{name}.cuh").read_text()
        if name == "queue":  # a batch is looked up by as many lanes, and here a warp has one
            assert "constexpr int BATCH = QUEUE / 2;" in text
            text = text.replace("BATCH = QUEUE / 2;", "BATCH = 1;")
        (folder / f"{name}.cuh").write_text(text)
    for file in HOST.iterdir():
        (folder / file.name).write_text(file.read_text())

    def build(dynamic: bool, traced: bool) -> ctypes.CDLL:
        target = folder / f"roles_{int(dynamic)}{int(traced)}.so"
        if not target.exists():
            command = ["c++", "-std=c++17", "-O1", "-pthread", "-shared", "-fPIC", "-w"]
            macros = [f"-DANY_DYNAMIC={str(dynamic).lower()}", f"-D{MACRO}"][: 1 + traced]
            subprocess.run(
                [*command, *macros, "-o", str(target), str(folder / "program.cpp")], check=True
            )
        return ctypes.CDLL(str(target))

    def run(net: Net, traced: bool = False) -> Running:
        given_out = any(family.dynamic for _, _, family in net.families)
        library = build(given_out, traced)
        ctypes.c_int.in_dll(library, "stop_family").value = -1
        return Running(library, net)

    return run


def S(size: int) -> Family:
    return Family(size, STREAM)


def D(size: int) -> Family:
    return Family(size, PLAIN, True)


def P(size: int) -> Family:
    return Family(size)


def T(size: int) -> Family:
    return Family(size, STAGED)


NETS = {
    "static": Net([[P(3)], [S(7)], [P(2), S(3)], [S(2)]], 3),
    "hybrid": Net([[P(1)], [S(7)], [D(9)], [D(4)], [S(5)], [P(2)]], 3),
    "all": Net([[P(1)], [D(6)], [D(1)], [D(11)]], 3),
    "beside": Net([[P(2)], [D(5), S(6)], [S(3), D(3), P(2)], [D(1)]], 2),
    "idle workers": Net([[P(1)], [D(2)]], 4),
    "one worker": Net([[P(2)], [D(5), S(6)], [D(3)]], 1),
    "stages": Net([[P(1)], [T(3)], [S(2)]], 3),
    "stages, one task": Net([[T(1)]], 1),
    "stages, long lists": Net([[P(9)], [T(40), S(9)], [T(3)]], 2),
    "stages, given out": Net([[P(1)], [T(3)], [D(2)]], 2),
}


@pytest.mark.parametrize("name", NETS)
def test_many_steps_in_many_launches(start: Callable[[Net], Running], name: str) -> None:
    running = start(NETS[name])
    position = 0
    for steps in (1, 9, 3):
        assert running.run(position, steps) == steps
        running.play(position, steps)
        position += steps
        assert running.made[-1][1:].tolist() == running.expected
        assert running.told.tolist() == running.to_be_told()


@pytest.mark.parametrize("name", ["static", "hybrid"])
def test_marks(start: Callable[..., Running], name: str) -> None:
    """Every task of every step that is held leaves its marks, in order."""
    net, steps, held = NETS[name], 6, 4
    running = start(net, traced=True)
    table = running.table
    tasks = np.zeros((held, table.task_count, 8), np.uint32)
    tracing = Tracing(tasks.ctypes.data, None, None, table.task_count, 1, steps - 1, held - 1, 0)
    variable = Tracing.in_dll(running.library, VARIABLE)
    ctypes.memmove(ctypes.addressof(variable), bytes(tracing), ctypes.sizeof(tracing))
    assert running.run(0, steps) == steps
    asked, ready, data, computed, done = np.moveaxis(tasks[..., : len(MARKS)], -1, 0)
    begin = asked[1, :1] - np.uint32(2**31)
    asked, ready, done = asked - begin, ready - begin, done - begin
    assert (asked <= ready).all()
    assert (ready <= done).all()
    assert not data.any()
    body = table.families[table.tasks[:, TaskField.FAMILY], 0]
    assert ((computed != 0) == (body == STREAM)).all()
    layer = np.array([net.families[k][0] for k in table.tasks[:, TaskField.FAMILY]])
    for step in range(2, steps):  # step 1 is overwritten by step 5
        first = [ready[(step - 1) % held, layer == k].min() for k in range(len(net.layers))]
        assert first == sorted(first)


@pytest.mark.parametrize("stops", ["list", "queue"])
def test_stop(start: Callable[[Net], Running], stops: str) -> None:
    """The last layer ends the loop; what was counted goes on in the next launch."""
    net = Net([[P(1)], [D(4), S(3)], [P(1) if stops == "list" else D(1)]], 2)
    running = start(net)
    ctypes.c_int.in_dll(running.library, "stop_family").value = 3
    ctypes.c_int.in_dll(running.library, "stop_modulus").value = 5
    position, stopped = 0, 0
    for _ in range(6):
        done = running.run(position, 20)
        for step in range(done):
            running.play(position + step, 1)
            assert (running.expected[0] % 5 == 0) <= (step == done - 1)
        stopped += done < 20
        assert running.made[-1][1:].tolist() == running.expected
        position += done
    assert stopped


def test_watchdog(start: Callable[[Net], Running]) -> None:
    """A signal that never comes: who waits at the end of its list says so, or a task does."""
    running = start(Net([[P(1)], [D(4)], [D(2)]], 2))
    running.table.tasks[3, TaskField.SIGNAL_EVENT] = -1
    running.tasks = looked_up(running.table, running.pointers)
    assert running.run(0, 3, watchdog=0.2) == -1
    control = running.control
    task, event = control.fault_task, control.fault_event
    assert (control.fault, event, control.fault_seen) == (1, 2, 0)
    assert control.fault_wanted == (2 if task == 0 else 6)
    assert running.table.waiting_label(task) in ("task f0[0]", "the end of the step")
    report = running.report(running.table)
    assert "- event e2 has 0 of 2 arrivals in step" in report
    assert "not signalled: f2[0], given out at run time, f2[1], given out at run time" in report
    lines = report.splitlines()
    assert lines[2].startswith("- event e1 has 3 of 4 arrivals in step")  # nobody else waits for it
    assert "f1[2] signal nothing" in lines[3]


@pytest.mark.parametrize("streams", [False, True])
def test_a_lost_signal_is_found(start: Callable[[Net], Running], streams: bool) -> None:
    """The table that the workers run lacks a signal that it should have: all of them stand in the
    next layer, and who knows the whole table sees that every task that signals has run.
    """
    running = start(Net([[P(2)], [S(4) if streams else P(4)], [P(3)]], 2))
    whole, table = running.net.table(), running.table
    lost = int(np.flatnonzero(table.tasks[:, TaskField.SIGNAL_EVENT] == 1)[2])
    table.tasks[lost, TaskField.SIGNAL_EVENT] = -1
    assert running.run(0, 3, watchdog=0.2) == -1
    lines = running.report(whole).splitlines()
    assert "waited more than 0.2 s for event" in lines[0]
    assert lines[1] == "2 of 2 workers stand:"
    assert lines[2].startswith("- event e1 has 3 of 4 arrivals in step 0; wanted by f2[")
    assert lines[3] == "  all 4 tasks that signal it have run; signals lost: 1"
    assert f"f1[{whole.tasks[lost, TaskField.INDEX]}] signal nothing" in running.report(table)
