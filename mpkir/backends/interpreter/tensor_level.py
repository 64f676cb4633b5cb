"""Runs a step program at tensor level.

Of a program that is divided among ranks, all ranks run an operator before any runs the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, SSAValue
from xdsl.traits import IsTerminator

from mpkir.backends.interpreter.collectives import Collective, collective_of
from mpkir.backends.interpreter.given import given_array, together
from mpkir.backends.interpreter.kernels import Kernel, Scalars, builder, kernel_of, slots_of
from mpkir.backends.interpreter.values import (
    Array,
    carrier_dtype,
    storage_dtype,
    to_carrier,
    to_storage,
)
from mpkir.dialects import tensor as t
from mpkir.dialects.mesh import ranks_of
from mpkir.dialects.shards import ShardAttr
from mpkir.errors import MpkirError


@dataclass
class Step(Scalars):
    """One execution of the step: what is bound to its names, and what it made. All arrays in their
    carriers."""

    weights: Mapping[SSAValue, Array] = field(default_factory=dict)
    states: Mapping[str, Array] = field(default_factory=dict)
    inputs: Mapping[str, Array] = field(default_factory=dict)
    outputs: dict[str, Array] = field(default_factory=dict)
    stored: dict[str, Array] = field(default_factory=dict)


@builder(t.WeightOp)
def _weight(op: t.WeightOp) -> Kernel:
    value = op.result
    return lambda step: (step.weights[value],)


@builder(t.StateOp)
def _state(op: t.StateOp) -> Kernel:
    name = op.sym.data
    return lambda step: (step.states[name],)


@builder(t.InputOp)
def _input(op: t.InputOp) -> Kernel:
    name = op.sym.data
    return lambda step: (step.inputs[name],)


@builder(t.StoreStateOp)
def _store_state(op: t.StoreStateOp) -> Kernel:
    name = op.sym.data

    def run(step: Step, value: Array) -> tuple[Array, ...]:
        step.stored[name] = value
        return ()

    return run


@builder(t.OutputOp)
def _output(op: t.OutputOp) -> Kernel:
    name, type = op.sym.data, op.value.type

    def run(step: Step, value: Array) -> tuple[Array, ...]:
        step.outputs[name] = to_storage(value, type)
        return ()

    return run


def step_function(module: ModuleOp) -> FuncOp:
    """The one function of a step program."""
    functions = [op for op in module.body.block.ops if isinstance(op, FuncOp)]
    if len(functions) != 1 or functions[0].is_declaration:
        raise MpkirError(f"a step program is one function, this module has {len(functions)}")
    return functions[0]


def _bound(op: t.WeightOp | t.InputOp | t.StateOp, given: Mapping[str, Array], rank: int) -> Array:
    """A rank's array of a named source in its carrier, checked against the op's type."""
    kind = op.name.removeprefix("mpk_tensor.")
    array = given_array(op, given, kind, rank)
    return to_carrier(array, op.result.type, f"{kind} '{op.sym.data}'")


class TensorProgram:
    """A module at tensor level with its weights, ready to be stepped."""

    stopped: bool
    """Whether a stop token has been appended in the last step."""

    def __init__(self, module: ModuleOp, weights: Mapping[str, Array]):
        block = step_function(module).body.block
        self._ranks = range(ranks_of(module))
        self._code: list[tuple[Kernel | None, Collective | None, tuple[int, ...]]] = []
        """What each operator is on every rank, or all do together, and the numbers of its
        operands."""
        slots: dict[SSAValue, int] = {}
        for op in block.ops:
            if not op.has_trait(IsTerminator):
                collective = collective_of(op)
                kernel = kernel_of(op) if collective is None else None
                self._code.append((kernel, collective, slots_of(op, slots)))
                for result in op.results:
                    slots[result] = len(slots)
        self._states = {op.sym.data: op for op in block.ops if isinstance(op, t.StateOp)}
        self._inputs = {op.sym.data: op for op in block.ops if isinstance(op, t.InputOp)}
        self._outputs = {op.sym.data: op for op in block.ops if isinstance(op, t.OutputOp)}
        self._weights = [self._weights_of(rank, block, weights) for rank in self._ranks]
        self.stopped = False

    @staticmethod
    def _weights_of(rank: int, block: Block, weights: Mapping[str, Array]) -> dict[SSAValue, Array]:
        """A rank's weights, each once: a tied one has several operators."""
        held: dict[tuple[str, ShardAttr | None], Array] = {}
        bound: dict[SSAValue, Array] = {}
        for op in block.ops:
            if isinstance(op, t.WeightOp):
                key = op.sym.data, op.shard
                if key not in held:
                    held[key] = _bound(op, weights, rank)
                bound[op.result] = held[key]
        return bound

    def step(
        self, states: Mapping[str, Array], inputs: Mapping[str, Array], position: int
    ) -> dict[str, Array]:
        """One step at `position`: its outputs. `states` are updated in place when it ends.

        Both are whole, whatever a rank has of them. MpkirError if ranks differ that should not.
        """
        steps = [
            Step(
                position=position,
                weights=self._weights[rank],
                states={name: _bound(op, states, rank) for name, op in self._states.items()},
                inputs={name: _bound(op, inputs, rank) for name, op in self._inputs.items()},
            )
            for rank in self._ranks
        ]
        with np.errstate(all="ignore"):
            self._run(steps)
        for name in steps[0].stored:
            held, op = states[name], self._states.get(name)
            stored = [step.stored[name].astype(held.dtype) for step in steps]
            together(name, stored, None if op is None else op.shard, into=held)
        self.stopped = steps[0].stop
        return {
            name: together(name, [step.outputs[name] for step in steps], op.shard)
            for name, op in self._outputs.items()
        }

    def _run(self, steps: Sequence[Step]) -> None:
        values: list[list[Array]] = [[] for _ in steps]
        for kernel, collective, operands in self._code:
            given = [[own[i] for i in operands] for own in values]
            if collective is not None:
                for own, result in zip(values, collective(steps, given), strict=True):
                    own.append(result)
            elif kernel is not None:
                for step, own, arrays in zip(steps, values, given, strict=True):
                    own.extend(kernel(step, *arrays))


def initial_states(module: ModuleOp) -> dict[str, Array]:
    """Every state of a program at tensor level as it is before the first step, whole."""
    return {
        op.sym.data: np.full(
            t.shape_of(op.result)
            if op.shard is None
            else op.shard.whole_shape(t.shape_of(op.result)),
            np.array(op.initial.value.data, carrier_dtype(t.element_type_of(op.result))),
            storage_dtype(t.element_type_of(op.result)),
        )
        for op in step_function(module).body.block.ops
        if isinstance(op, t.StateOp)
    }


def run_step(
    module: ModuleOp,
    weights: Mapping[str, Array],
    states: Mapping[str, Array],
    inputs: Mapping[str, Array],
    position: int,
) -> dict[str, Array]:
    """Execute one step of a program at tensor level: its outputs, by name.

    Arrays have the shapes and dtypes of the program's types (bf16 is ml_dtypes.bfloat16); `states`
    are updated in place at the end. MpkirError if one is missing or does not fit, or if an op
    cannot be run.
    """
    return TensorProgram(module, weights).step(states, inputs, position)
