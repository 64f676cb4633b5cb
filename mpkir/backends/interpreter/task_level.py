"""Runs a step program at task level: its families one after another, in program order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from mpkir.backends.interpreter.families import families_of
from mpkir.backends.interpreter.kernels import Scalars
from mpkir.backends.interpreter.memory import Memory
from mpkir.backends.interpreter.values import Array


class TaskProgram:
    """A module at task level with its weights, ready to be stepped."""

    stopped: bool
    """Whether a stop token has been appended in the last step."""

    def __init__(self, module: ModuleOp, weights: Mapping[str, Array]):
        self._memory = Memory(module, weights)
        self._families = families_of(module, self._memory)
        self.stopped = False

    def step(
        self, states: Mapping[str, Array], inputs: Mapping[str, Array], position: int
    ) -> dict[str, Array]:
        """One step at `position`: its outputs. `states` are updated in place when it ends."""
        self._memory.load(states, inputs)
        self._memory.poison()
        scalars = Scalars(position)
        with np.errstate(all="ignore"):
            for family in self._families:
                for index in range(family.size):
                    family.run(index, scalars)
        self._memory.store(states)
        self.stopped = scalars.stop
        return self._memory.outputs()


def run_step(
    module: ModuleOp,
    weights: Mapping[str, Array],
    states: Mapping[str, Array],
    inputs: Mapping[str, Array],
    position: int,
) -> dict[str, Array]:
    """Execute one step of a program at task level: its outputs, by name.

    Arrays have the shapes and dtypes of the program's buffers (bf16 is ml_dtypes.bfloat16);
    `states` are updated in place at the end. MpkirError if one is missing or does not fit.
    """
    return TaskProgram(module, weights).step(states, inputs, position)
