"""Runs a step program at event level: workers play concurrently, in a random or adversarial order.

Counters work as in a compiled program: never reset, in step e a wait is satisfied when the counter
has reached arrivals * (e + 1 - lag). They reach as far as their hand-off says (see `schedule`);
flags are tags on the data (see `flags`). A dynamic task runs at any time after its event has fired.
A program whose grids have no `workers` yet runs each task on a worker of its own, so that only
events order tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from mpkir.backends.interpreter.atoms import Atoms, Touched
from mpkir.backends.interpreter.families import families_of, tokens_per_step
from mpkir.backends.interpreter.kernels import Scalars
from mpkir.backends.interpreter.memory import Memory, give_back
from mpkir.backends.interpreter.orders import Order
from mpkir.backends.interpreter.play import Play, uses_flags
from mpkir.backends.interpreter.schedule import PlannedTask, Schedule
from mpkir.backends.interpreter.values import Array
from mpkir.dialects.mesh import ranks_of


@dataclass(frozen=True)
class Run:
    """What a launch of several steps gave."""

    outputs: dict[str, Array]
    """The outputs as the last step left them."""
    steps_done: int
    """Fewer than asked for if a stop token was appended."""


class EventProgram:
    """A module at event level with its weights, ready to run."""

    def __init__(self, module: ModuleOp, weights: Mapping[str, Array]):
        ranks = ranks_of(module)
        self._memories = [Memory(module, weights, rank) for rank in range(ranks)]
        families = [families_of(module, each, self._memories) for each in self._memories]
        self._schedule = Schedule.of(module, families[0])
        self._bound = [dict(zip(self._schedule.families, each, strict=True)) for each in families]
        """Of each rank, by the first's, its families."""
        self._tokens = tokens_per_step(module)
        self._atoms: Atoms | None = None
        self._touched: dict[int, Touched] = {}

    def run(
        self,
        states: Mapping[str, Array],
        inputs: Mapping[str, Array],
        position: int,
        *,
        steps: int = 1,
        seed: int = 0,
        check_races: bool = True,
        order: Order = "random",
    ) -> Run:
        """Run `steps` steps from `position`; see `run_steps`."""
        for memory in self._memories:
            memory.load(states, inputs)
            memory.poison()
        tasks = [planned for worker in self._schedule.workers for planned in worker]
        if self._atoms is None and (check_races or uses_flags(self._schedule)):
            self._atoms = Atoms(self._schedule.families, self._schedule.ranks)
            self._touched = {
                planned.order: self._atoms.touched(planned.family, planned.index, planned.rank)
                for planned in tasks
            }

        def execute(planned: PlannedTask, step: int) -> bool:
            scalars = Scalars(position + step * self._tokens)
            self._bound[planned.rank][planned.family].run(planned.index, scalars)
            return scalars.stop

        play = Play(
            self._schedule,
            execute,
            steps=steps,
            seed=seed,
            order=order,
            atoms=self._atoms,
            touched=self._touched,
            check_races=check_races,
            scratch=self._memories[0].scratch(),
        )
        with np.errstate(all="ignore"):
            play.run()
        return Run(give_back(self._memories, states), play.steps_done)


def run_steps(
    module: ModuleOp,
    weights: Mapping[str, Array],
    states: Mapping[str, Array],
    inputs: Mapping[str, Array],
    position: int,
    steps: int = 1,
    seed: int = 0,
    check_races: bool = True,
    order: Order = "random",
) -> Run:
    """Execute `steps` steps of a program at event level, its workers interleaved by `seed`.

    `order` "eager" always runs the task furthest along of those that may run: consumers as early as
    events let them; `Delay(w)` and `Ahead(w)` hold one worker back or let it run on. `states` are
    updated in place at the end. MpkirError names workers, tasks and events on a deadlock, a race
    (`check_races`), an event that fires too early, or a task that runs after the stop.
    """
    return EventProgram(module, weights).run(
        states, inputs, position, steps=steps, seed=seed, check_races=check_races, order=order
    )
