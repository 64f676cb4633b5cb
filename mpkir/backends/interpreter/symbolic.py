"""Schedules played without numbers: every task is an unknown function of all that it reads.

A value is a hash of the task that made it and of the values that it read, so that whatever differs
from running the families one after another shows, however small its numbers would be, and a play
costs microseconds a task. What no task of a step has written is *poison* at its beginning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from mpkir.backends.interpreter.atoms import Atoms, Touched
from mpkir.backends.interpreter.families import Family
from mpkir.backends.interpreter.memory import Memory
from mpkir.backends.interpreter.orders import Ahead, Delay, Order
from mpkir.backends.interpreter.play import Play
from mpkir.backends.interpreter.schedule import PlannedTask, Schedule
from mpkir.backends.interpreter.values import Array
from mpkir.dialects import task
from mpkir.dialects.task import BufferKind
from mpkir.errors import MpkirError

_POISON = 0


class Shapes(Memory):
    """The buffers of a module without their contents."""

    def __init__(self, module: ModuleOp):
        self.rank = 0
        self._buffers = {op.sym.data: op for op in module.walk() if isinstance(op, task.BufferOp)}
        self.arrays = {}

    def view(self, value: SSAValue) -> Array:
        """An array of the value's shape whose elements all share one place."""
        shape = task.memref_type_of(value).get_shape()
        return np.broadcast_to(np.zeros((), np.int8), shape)

    def forgotten(self) -> frozenset[str]:
        """Names of the buffers that begin each step as poison."""
        return frozenset(op.sym.data for op in self._of_kind(BufferKind.SCRATCH, BufferKind.OUTPUT))


class SymbolicProgram:
    """A module at event level, of which the schedule counts and not the numbers."""

    def __init__(self, module: ModuleOp, families: Sequence[Family], atoms: Atoms) -> None:
        """`families` are those of the module, in its order, on `Shapes`; `atoms` are theirs on all
        ranks, or finer. MpkirError where edges and placements do not fit together."""
        self._schedule = Schedule.of(module, tuple(families))
        self._atoms = atoms
        self._scratch = Shapes(module).forgotten()
        self._tasks = sorted(
            (planned for worker in self._schedule.workers for planned in worker),
            key=lambda planned: planned.order,
        )
        self._touched: dict[int, Touched] = {
            planned.order: atoms.touched(planned.family, planned.index, planned.rank)
            for planned in self._tasks
        }
        self._lists = {
            order: (touched.reads.tolist(), touched.writes.tolist())
            for order, touched in self._touched.items()
        }

    @property
    def workers(self) -> int:
        """How many workers have a list, dynamic tasks counted as a worker each."""
        return len(self._schedule.workers)

    def orders(self, seeds: Sequence[int]) -> list[tuple[Order, int, bool]]:
        """Orders to play in, each with a seed and whether to look for races: random ones, and each
        worker held back as long as can be and let run ahead as far as can be."""
        workers = range(self.workers)
        return [
            ("random", seeds[0], True),
            ("eager", seeds[0], True),
            *(("random", seed, False) for seed in seeds[1:]),
            *((Delay(worker), seeds[0], False) for worker in workers),
            *((Ahead(worker), seeds[0], False) for worker in workers),
        ]

    def check(self, orders: Iterable[tuple[Order, int, bool]], steps: int = 3) -> None:
        """Play in these orders. MpkirError at the first failure: a wrong value, a race, a deadlock,
        a task after the stop, something that no machine can do."""
        expected, final = self.meaning(steps)
        for order, seed, races in orders:
            values = self._first_values()
            self._play(values, expected, order, seed, races, steps)
            if values != final:
                raise MpkirError("states or outputs differ at the end from what they should be")

    def meaning(self, steps: int) -> tuple[dict[tuple[int, int], int], list[int]]:
        """What the families give one after another: what each task (its order, its step) reads, and
        the values at the end. MpkirError if a task reads poison."""
        written = set(self._atoms.buffers)
        for family in self._schedule.families:
            for name in family.read_buffers:
                if name in self._scratch and name not in written:
                    raise MpkirError(f"@{family.name} reads '{name}', which no task ever writes")
        values = self._first_values()
        forgotten = [i for i, name in enumerate(self._atoms.buffers) if name in self._scratch]
        expected: dict[tuple[int, int], int] = {}
        for step in range(steps):
            for atom in forgotten:
                values[atom] = _POISON
            for planned in self._tasks:
                reads = self._lists[planned.order][0]
                if any(values[atom] == _POISON for atom in reads):
                    raise MpkirError(f"{planned.label} reads what no task of the step has written")
                expected[planned.order, step] = self._run(planned, step, values)
        return expected, values

    def _first_values(self) -> list[int]:
        return [
            _POISON if name in self._scratch else hash((-1, atom)) or 1
            for atom, name in enumerate(self._atoms.buffers)
        ]

    def _run(self, planned: PlannedTask, step: int, values: list[int]) -> int:
        """Run a task; the hash of what it has read."""
        reads, writes = self._lists[planned.order]
        read = hash((planned.order, step, *[values[atom] for atom in reads]))
        for number, atom in enumerate(writes):
            values[atom] = hash((read, number)) or 1
        return read

    def _play(
        self,
        values: list[int],
        expected: dict[tuple[int, int], int],
        order: Order,
        seed: int,
        races: bool,
        steps: int,
    ) -> None:
        def execute(planned: PlannedTask, step: int) -> bool:
            if self._run(planned, step, values) != expected[planned.order, step]:
                raise MpkirError(f"{planned.label} of step {step} reads a wrong value")
            return False

        Play(
            self._schedule,
            execute,
            steps=steps,
            seed=seed,
            order=order,
            atoms=self._atoms,
            touched=self._touched,
            check_races=races,
            scratch=self._scratch,
            stop_any_time=True,
        ).run()
