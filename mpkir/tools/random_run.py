"""Random numbers for a program at any level, and what the interpreter makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt

import numpy as np
from xdsl.dialects.builtin import MemRefType, ModuleOp, TensorType
from xdsl.ir import Attribute

from mpkir.backends.interpreter.event_level import EventProgram
from mpkir.backends.interpreter.task_level import TaskProgram
from mpkir.backends.interpreter.tensor_level import TensorProgram
from mpkir.backends.interpreter.values import Array, storage_dtype
from mpkir.dialects import event, task, tensor
from mpkir.dialects.shards import ShardAttr
from mpkir.dialects.task import BufferKind

_KINDS = {
    BufferKind.WEIGHT: "weight",
    BufferKind.INPUT: "input",
    BufferKind.STATE: "state",
}
_STEPS = 3
_FEW = 8
"""Integers are below this where nothing in the program bounds them."""


@dataclass(frozen=True)
class Named:
    """Something that comes into a program from outside."""

    kind: str
    name: str
    shape: tuple[int, ...]
    element_type: Attribute
    initial: int = 0

    @property
    def is_sequence(self) -> bool:
        """Whether it is a row of tokens, -1 where unknown, or one for each of several sequences."""
        return self.kind == "state" and len(self.shape) in (1, 2) and self.initial == -1


def named_values(module: ModuleOp) -> Iterator[Named]:
    """The weights, inputs and states of a program at any level, whole."""
    for op in module.walk():
        match op:
            case tensor.WeightOp():
                kind, initial = "weight", 0
            case tensor.InputOp():
                kind, initial = "input", 0
            case tensor.StateOp():
                kind, initial = "state", op.initial.value.data
            case task.BufferOp() if op.kind.data in _KINDS:
                kind, initial = _KINDS[op.kind.data], op.initial.value.data
            case _:
                continue
        type = op.result.type
        assert isinstance(type, TensorType | MemRefType)
        shape, element_type = tuple(type.get_shape()), type.get_element_type()
        parts = op.parts if isinstance(op, tensor.WeightOp | task.BufferOp) else None
        if parts is None:
            shard = None if isinstance(op, tensor.InputOp) else op.shard
            yield Named(kind, op.sym.data, _whole(shape, shard), element_type, initial)
            continue
        for (name, rows), shard in zip(parts.items, parts.shards, strict=True):
            yield Named(kind, name, _whole((rows, *shape[1:]), shard), element_type)


def _whole(shape: tuple[int, ...], shard: ShardAttr | None) -> tuple[int, ...]:
    return shape if shard is None else shard.whole_shape(shape)


@dataclass(frozen=True)
class Numbers:
    """Weights, inputs and first states by name, and the position of the first of some steps."""

    weights: Mapping[str, Array]
    inputs: Mapping[str, Array]
    states: Mapping[str, Array]
    position: int
    steps: int

    @classmethod
    def random(cls, module: ModuleOp, seed: int) -> Numbers:
        """Numbers for a program.

        Matrices are scaled so that products keep the size of what they multiply. Integers lie
        within the smallest table that something looks up in. A program with caches begins in the
        middle of them, with tokens known for all steps, so that only the last one appends.
        """
        rng = np.random.default_rng(seed)
        values = list(named_values(module))
        capacity = min(
            [v.shape[-1] - 1 for v in values if v.is_sequence]
            + [v.shape[2] for v in values if v.kind == "state" and len(v.shape) == 4],
            default=_STEPS,
        )
        steps = min(_STEPS, capacity)
        position = min(capacity // 2, capacity - steps)
        bound = _bound_of_integers(module)
        arrays: dict[str, dict[str, Array]] = {"weight": {}, "input": {}, "state": {}}
        for value in values:
            array = _random(value, bound, rng)
            if value.is_sequence:
                array[..., position + steps :] = -1
            arrays[value.kind][value.name] = array
        return cls(arrays["weight"], arrays["input"], arrays["state"], position, steps)

    def run(self, module: ModuleOp, seed: int) -> dict[str, Array]:
        """Outputs of the last step and states after it: "output 'logits'" -> array.

        At event level workers are interleaved by `seed`. MpkirError where it cannot be run.
        """
        states = {name: value.copy() for name, value in self.states.items()}
        if any(isinstance(op, event.TensorOp) for op in module.walk()):
            run = EventProgram(module, self.weights).run(
                states, self.inputs, self.position, steps=self.steps, seed=seed
            )
            outputs = run.outputs
        else:
            outputs = self._step(module, states)
        result = {f"output '{name}'": value for name, value in outputs.items()}
        return result | {f"state '{name}'": value for name, value in states.items()}

    def _step(self, module: ModuleOp, states: dict[str, Array]) -> dict[str, Array]:
        lowered = any(isinstance(op, task.GridOp) for op in module.walk())
        program = (TaskProgram if lowered else TensorProgram)(module, self.weights)
        outputs: dict[str, Array] = {}
        for step in range(self.steps):
            outputs = program.step(states, self.inputs, self.position + step)
            if program.stopped:
                break
        return outputs


def _bound_of_integers(module: ModuleOp) -> int:
    tables = [
        tensor.shape_of(op.table)[0] for op in module.walk() if isinstance(op, tensor.EmbeddingOp)
    ]
    return min(tables, default=_FEW)


def _random(value: Named, bound: int, rng: np.random.Generator) -> Array:
    dtype = storage_dtype(value.element_type)
    if dtype == np.bool_:
        return rng.random(value.shape) < 0.5
    if np.issubdtype(dtype, np.integer):
        return rng.integers(bound, size=value.shape).astype(dtype)
    numbers = rng.standard_normal(value.shape, np.float32)
    if value.kind == "weight":
        if len(value.shape) > 1:
            numbers /= sqrt(max(1, value.shape[-1]))
        else:
            numbers = 1 + numbers / 10
    return numbers.astype(dtype)
