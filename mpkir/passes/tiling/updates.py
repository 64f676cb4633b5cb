"""Buffers that change what they hold: states and outputs that are stored, operands that are updated
in place, and copies of what is still read behind that.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects.builtin import LocationAttr
from xdsl.ir import Operation, SSAValue

from mpkir.analysis.families import buffer_of
from mpkir.dialects import tensor
from mpkir.dialects.task import BufferKind
from mpkir.errors import MpkirError
from mpkir.passes.tiling.layouts import Layout, is_whole
from mpkir.passes.tiling.lifetimes import Lifetimes
from mpkir.passes.tiling.task_step import TaskStep, name_of
from mpkir.passes.tiling.tiling import whole


@dataclass(frozen=True)
class Updates:
    """Changes what the buffers of a step hold, and keeps what is read later."""

    step: TaskStep
    lifetimes: Lifetimes

    def store(self, op: tensor.StoreStateOp | tensor.OutputOp, target: SSAValue) -> None:
        """Copy a value to a named buffer, unless it is there already."""
        place = self.step.buffers.get(op.value)
        if place is not None and buffer_of(place) is target.owner:
            if is_whole(place):
                return
            self.materialize(op.value, op.location)
        self.save_values_in(target, op)
        self.add_copy(op.value, target, self.step.fresh(f"store.{op.sym.data}"), op.location)

    def place_in_operand(self, op: Operation, operand: SSAValue, result: SSAValue) -> SSAValue:
        """The buffer of a result that is an update of an operand: the operand's, if it may go.

        MpkirError where another operand lies in that buffer, too.
        """
        place = self.step.buffers[operand]
        root = buffer_of(place)
        for other in dict.fromkeys(op.operands):
            beside = self.step.buffers.get(other)
            if beside is not None and buffer_of(beside) is root and not is_whole(beside):
                self.materialize(other, op.location)
        place = self.step.buffers[operand]
        root = buffer_of(place)
        places = [self.step.buffers[v] for v in op.operands if v in self.step.buffers]
        if sum(buffer_of(each) is root for each in places) > 1:
            raise MpkirError(
                f"{op.name} updates '{root.sym.data}' in place and reads it elsewhere, too",
                where=name_of(op.location),
                hint="give it a copy",
            )
        kind = root.kind.data
        if (kind is BufferKind.SCRATCH and root.exchange is None) or (
            kind is BufferKind.STATE and self.lifetimes.is_at_home(result, root.sym.data)
        ):
            self.save_values_in(root.result, op)
            return place
        name = self.step.fresh(f"copy.{root.sym.data}")
        own = self.step.buffer(BufferKind.SCRATCH, name, operand)
        self.add_copy(operand, own, name, op.location)
        return own

    def save_values_in(self, buffer: SSAValue, op: Operation) -> None:
        """Copy what the buffer holds if it is read after `op`, which replaces it."""
        held = self.step.buffers.held.get(buffer_of(buffer), {})
        live = [value for value in held if self.lifetimes.is_read_after(value, op)]
        if not live:
            return
        name = f"keep.{buffer_of(buffer).sym.data}"
        whole = [value for value in live if is_whole(self.step.buffers[value])]
        for value in live:
            if value not in whole:
                self.materialize(value, op.location, name)
        for value in whole[:1]:
            self.materialize(value, op.location, name)
        for value in whole[1:]:
            self.step.buffers[value] = self.step.buffers[whole[0]]
            if value.type != whole[0].type:
                self.step.add_view(
                    value, self.step.buffers[whole[0]], Layout.dense(tensor.shape_of(value))
                )

    def materialize(self, value: SSAValue, location: LocationAttr, name: str | None = None) -> None:
        """Copy a value to a buffer of its own, where it is read from now on."""
        name = self.step.fresh(name or f"copy.{buffer_of(self.step.buffers[value]).sym.data}")
        own = self.step.buffer(BufferKind.SCRATCH, name, value)
        self.add_copy(value, own, name, location)
        self.step.buffers[value] = own

    def add_copy(
        self, value: SSAValue, target: SSAValue, name: str, location: LocationAttr
    ) -> None:
        """Add the one task that copies a value to a buffer of its shape."""
        copy = tensor.ReshapeOp(value, tensor.shape_of(value))
        copy.location = location
        self.step.add_grid(copy, whole(copy.operands, copy.results), [target], name)
        copy.erase()
