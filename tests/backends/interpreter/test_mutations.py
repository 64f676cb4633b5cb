"""Schedules broken on purpose: running them finds what verify-schedule finds by proof."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from xdsl.dialects.builtin import ArrayAttr, DenseArrayBase, ModuleOp, i64

from mpkir.backends.interpreter import event_level, memory
from mpkir.dialects import event, task
from mpkir.errors import MpkirError
from mpkir.frontend import decode_step
from mpkir.machine import machine_named
from mpkir.passes.verify_schedule import VerifySchedulePass
from mpkir.pipeline import context, lower

WORKERS = 6
THIRD_TOKEN = 9  # what the model says third, after token 1
Mutation = Callable[[ModuleOp, task.GridOp], None]


def grids(module: ModuleOp) -> list[task.GridOp]:
    return [op for op in module.walk() if isinstance(op, task.GridOp)]


def drop_wait(module: ModuleOp, grid: task.GridOp) -> None:
    grid.waits = None


def wait_for_the_other_step(module: ModuleOp, grid: task.GridOp) -> None:
    if grid.waits is not None:
        grid.waits = ArrayAttr(
            event.EdgeAttr(edge.event, edge.index, 1 - edge.lag.data) for edge in grid.waits
        )


def move_to_the_next_worker(module: ModuleOp, moved: task.GridOp) -> None:
    """Put a family's tasks after those that had the same slots on the next workers."""
    places = []
    for grid in grids(module):
        for index, (worker, slot) in enumerate(
            zip(grid.workers.get_values(), grid.slots.get_values(), strict=True)
        ):
            worker = (worker + 1) % WORKERS if grid is moved else worker
            places.append((worker, slot, grid is moved, grid, index))
    slots = {grid: [0] * grid.size for grid in grids(module)}
    workers = {grid: [0] * grid.size for grid in grids(module)}
    filled = [0] * WORKERS
    for worker, _, _, grid, index in sorted(places, key=lambda place: place[:3]):
        workers[grid][index], slots[grid][index] = worker, filled[worker]
        filled[worker] += 1
    for grid in grids(module):
        grid.workers = DenseArrayBase.from_list(i64, workers[grid])
        grid.slots = DenseArrayBase.from_list(i64, slots[grid])


def is_proved(module: ModuleOp) -> bool:
    try:
        VerifySchedulePass().apply(context(), module)
    except MpkirError:
        return False
    return True


def runs(module: ModuleOp, weights: dict[str, np.ndarray]) -> bool:
    program = event_level.EventProgram(module, weights)
    for order in ("random", "eager"):
        states = memory.initial_states(module)
        states["tokens"][0] = 1
        try:
            done = program.run(states, {}, 0, steps=4, order=order).steps_done
        except MpkirError:
            return False
        assert done == 3, "the step that stops the loop is the last"
    return True


@pytest.mark.parametrize("mutate", [drop_wait, wait_for_the_other_step, move_to_the_next_worker])
def test_proof_and_execution_agree(make_model, mutate: Mutation) -> None:
    model = make_model("llama")
    module = decode_step(model.torch, capacity=32, stop=[THIRD_TOKEN])
    lower(module, machine_named("h100", workers=WORKERS))
    assert is_proved(module)
    assert runs(module, model.weights)
    verdicts = []
    for name in [grid.sym_name.data for grid in grids(module)]:
        broken = module.clone()
        mutate(broken, next(grid for grid in grids(broken) if grid.sym_name.data == name))
        verdicts.append(is_proved(broken))
        assert runs(broken, model.weights) == verdicts[-1], name
    assert not all(verdicts), "some mutation must do harm"
