"""Runs a step program at task level: its families one after another, in program order.

All ranks run a family before any runs the next.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from mpkir.backends.interpreter.families import families_of
from mpkir.backends.interpreter.kernels import Scalars
from mpkir.backends.interpreter.memory import Memory, give_back
from mpkir.backends.interpreter.values import Array
from mpkir.dialects.mesh import ranks_of


class TaskProgram:
    """A module at task level with its weights, ready to be stepped."""

    stopped: bool
    """Whether a stop token has been appended in the last step."""

    def __init__(self, module: ModuleOp, weights: Mapping[str, Array]):
        self._memories = [Memory(module, weights, rank) for rank in range(ranks_of(module))]
        self._families = [families_of(module, memory, self._memories) for memory in self._memories]
        self.stopped = False

    def step(
        self, states: Mapping[str, Array], inputs: Mapping[str, Array], position: int
    ) -> dict[str, Array]:
        """One step at `position`: its outputs. `states` are updated in place when it ends."""
        for memory in self._memories:
            memory.load(states, inputs)
            memory.poison()
        scalars = Scalars(position)
        with np.errstate(all="ignore"):
            for everywhere in zip(*self._families, strict=True):
                for family in everywhere:
                    for index in range(family.size):
                        family.run(index, scalars)
        self.stopped = scalars.stop
        return give_back(self._memories, states)


def run_step(
    module: ModuleOp,
    weights: Mapping[str, Array],
    states: Mapping[str, Array],
    inputs: Mapping[str, Array],
    position: int,
) -> dict[str, Array]:
    """Execute one step of a program at task level: its outputs, by name.

    Arrays are whole, whatever a rank has of them. They have the shapes and dtypes of the program's
    buffers (bf16 is ml_dtypes.bfloat16); `states` are updated in place at the end. MpkirError if
    one is missing or does not fit.
    """
    return TaskProgram(module, weights).step(states, inputs, position)
