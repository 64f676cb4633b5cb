"""Runs a step program at tensor level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp

from mpkir.backends.interpreter.given import given_array
from mpkir.backends.interpreter.kernels import Kernel, Scalars, block_kernel, builder
from mpkir.backends.interpreter.values import (
    Array,
    carrier_dtype,
    storage_dtype,
    to_carrier,
    to_storage,
)
from mpkir.dialects import tensor as t
from mpkir.errors import MpkirError


@dataclass
class Step(Scalars):
    """One execution of the step: what is bound to its names, and what it made. All arrays in their
    carriers."""

    weights: Mapping[str, Array] = field(default_factory=dict)
    states: Mapping[str, Array] = field(default_factory=dict)
    inputs: Mapping[str, Array] = field(default_factory=dict)
    outputs: dict[str, Array] = field(default_factory=dict)
    stored: dict[str, Array] = field(default_factory=dict)


@builder(t.WeightOp)
def _weight(op: t.WeightOp) -> Kernel:
    name = op.sym.data
    return lambda step: (step.weights[name],)


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


def bind(
    ops: Mapping[str, t.WeightOp | t.InputOp | t.StateOp], given: Mapping[str, Array], kind: str
) -> dict[str, Array]:
    """The arrays of named sources in their carriers, checked against the ops' types."""
    bound: dict[str, Array] = {}
    for name, op in ops.items():
        array = given_array(op, given, kind)
        bound[name] = to_carrier(array, op.result.type, f"{kind} '{name}'")
    return bound


class TensorProgram:
    """A module at tensor level with its weights, ready to be stepped."""

    stopped: bool
    """Whether a stop token has been appended in the last step."""

    def __init__(self, module: ModuleOp, weights: Mapping[str, Array]):
        block = step_function(module).body.block
        self._run = block_kernel(block)
        self._states = {op.sym.data: op for op in block.ops if isinstance(op, t.StateOp)}
        self._inputs = {op.sym.data: op for op in block.ops if isinstance(op, t.InputOp)}
        names = {op.sym.data: op for op in block.ops if isinstance(op, t.WeightOp)}
        self._weights = bind(names, weights, "weight")
        self.stopped = False

    def step(
        self, states: Mapping[str, Array], inputs: Mapping[str, Array], position: int
    ) -> dict[str, Array]:
        """One step at `position`: its outputs. `states` are updated in place when it ends."""
        step = Step(
            position=position,
            weights=self._weights,
            states=bind(self._states, states, "state"),
            inputs=bind(self._inputs, inputs, "input"),
        )
        with np.errstate(all="ignore"):
            self._run(step, ())
        for name, value in step.stored.items():
            states[name][...] = value
        self.stopped = step.stop
        return step.outputs


def initial_states(module: ModuleOp) -> dict[str, Array]:
    """Every state of a program at tensor level as it is before the first step."""
    return {
        op.sym.data: np.full(
            t.shape_of(op.result),
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
