"""Runs a step program at tensor level as all its ranks do, operator by operator, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.traits import IsTerminator

from mpkir.backends.interpreter.given import given_array, together
from mpkir.backends.interpreter.kernels import Kernel, Scalars, block_kernel, kernel_of
from mpkir.backends.interpreter.tensor_level import Step, step_function
from mpkir.backends.interpreter.values import Array, rounding_to, to_carrier
from mpkir.dialects import tensor as t
from mpkir.dialects.mesh import ranks_of
from mpkir.errors import MpkirError

_Collective: TypeAlias = Callable[[Sequence[Scalars], Sequence[Sequence[Array]]], list[Array]]
"""`collective(scalars, operands)`, each by rank: the result on each rank."""


def _parts(arrays: Sequence[Array], of: int) -> Sequence[Array]:
    """The different ones, in the order of ranks: of neighbours that have the same one, the first's.

    MpkirError if their bits differ.
    """
    beside = len(arrays) // of
    for first in range(0, len(arrays), beside):
        for other in arrays[first + 1 : first + beside]:
            if other.tobytes() != arrays[first].tobytes():
                raise MpkirError(f"ranks {first} to {first + beside - 1} should have the same")
    return arrays[::beside]


def _sum_of(arrays: Sequence[Array], of: int) -> Array:
    total, *others = _parts(arrays, of)
    for each in others:
        total = total + each
    return total


def _all_reduce(op: t.AllReduceOp) -> _Collective:
    of, shape = op.of.value.data, t.shape_of(op.result)
    epilogue = None if op.epilogue is None else block_kernel(op.epilogue.block)
    to_type = rounding_to(t.element_type_of(op.result))

    def run(scalars: Sequence[Scalars], operands: Sequence[Sequence[Array]]) -> list[Array]:
        total = _sum_of([each[0] for each in operands], of)
        if epilogue is None:
            return [to_type(total)] * len(operands)
        values = (
            epilogue(own, (total, *each[1:])) for own, each in zip(scalars, operands, strict=True)
        )
        return [np.broadcast_to(value, shape) for (value,) in values]

    return run


def _all_gather(op: t.AllGatherOp) -> _Collective:
    dim, of = op.dim.value.data, op.of.value.data

    def run(_: Sequence[Scalars], operands: Sequence[Sequence[Array]]) -> list[Array]:
        parts = _parts([each[0] for each in operands], of)
        return [np.concatenate(parts, axis=dim)] * len(operands)

    return run


def _reduce_scatter(op: t.ReduceScatterOp) -> _Collective:
    dim, of = op.dim.value.data, op.of.value.data
    to_type = rounding_to(t.element_type_of(op.result))

    def run(_: Sequence[Scalars], operands: Sequence[Sequence[Array]]) -> list[Array]:
        total = to_type(_sum_of([each[0] for each in operands], of))
        return [part for part in np.split(total, of, axis=dim) for _ in operands[::of]]

    return run


def _collective_of(op: Operation) -> _Collective | None:
    match op:
        case t.AllReduceOp():
            return _all_reduce(op)
        case t.AllGatherOp():
            return _all_gather(op)
        case t.ReduceScatterOp():
            return _reduce_scatter(op)
        case _:
            return None


@dataclass
class _Instruction:
    """One operator: its kernel on each rank, or the collective that it is."""

    op: Operation
    kernel: Kernel | None
    collective: _Collective | None


class AllRanks:
    """A divided program with the whole weights, of which each rank takes its shards."""

    def __init__(self, module: ModuleOp, weights: Mapping[str, Array]):
        block = step_function(module).body.block
        self.ranks = ranks_of(module)
        self._weights: dict[SSAValue, list[Array]] = {}
        self._code: list[_Instruction] = []
        for op in block.ops:
            if isinstance(op, t.WeightOp):
                name = op.sym.data
                self._weights[op.result] = [
                    self._bound({name: op}, weights, "weight", rank)[name]
                    for rank in range(self.ranks)
                ]
            elif not op.has_trait(IsTerminator):
                collective = _collective_of(op)
                kernel = kernel_of(op) if collective is None else None
                self._code.append(_Instruction(op, kernel, collective))
        self._states = {op.sym.data: op for op in block.ops if isinstance(op, t.StateOp)}
        self._inputs = {op.sym.data: op for op in block.ops if isinstance(op, t.InputOp)}
        self._outputs = {op.sym.data: op for op in block.ops if isinstance(op, t.OutputOp)}

    def step(
        self, states: Mapping[str, Array], inputs: Mapping[str, Array], position: int
    ) -> dict[str, Array]:
        """One step at `position`: its outputs. `states` are updated in place when it ends.

        Both are whole: each rank takes its shards, and what comes of them is put together.
        MpkirError if bits differ between ranks that should have the same.
        """
        steps = [
            Step(
                position=position,
                states=self._bound(self._states, states, "state", rank),
                inputs=self._bound(self._inputs, inputs, "input", rank),
            )
            for rank in range(self.ranks)
        ]
        values = dict(self._weights)
        with np.errstate(all="ignore"):
            for each in self._code:
                operands = [[values[v][r] for v in each.op.operands] for r in range(self.ranks)]
                if each.collective is not None:
                    values[each.op.results[0]] = each.collective(steps, operands)
                    continue
                assert each.kernel is not None
                results = [each.kernel(own, *o) for own, o in zip(steps, operands, strict=True)]
                for index, result in enumerate(each.op.results):
                    values[result] = [found[index] for found in results]
        for name in steps[0].stored:
            shard, held = self._states[name].shard, states[name]
            stored = [step.stored[name].astype(held.dtype) for step in steps]
            together(name, stored, shard, into=held)
        return {
            name: together(name, [step.outputs[name] for step in steps], op.shard)
            for name, op in self._outputs.items()
        }

    def _bound(
        self,
        ops: Mapping[str, t.WeightOp | t.InputOp | t.StateOp],
        given: Mapping[str, Array],
        kind: str,
        rank: int,
    ) -> dict[str, Array]:
        """A rank's arrays of named sources in their carriers."""
        return {
            name: to_carrier(given_array(op, given, kind, rank), op.result.type, f"{kind} '{name}'")
            for name, op in ops.items()
        }
