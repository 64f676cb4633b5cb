"""Collectives become tasks: who sends what to which exchange buffer, and who reads it there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xdsl.ir import SSAValue

from mpkir.analysis.families import buffer_of
from mpkir.dialects import task, tensor
from mpkir.dialects.task import BufferOp
from mpkir.passes.tiling.collectives import (
    Collective,
    gathered,
    identity,
    rows_of,
    spread_thin,
    stand_in,
    stand_ins,
    sum_of,
)
from mpkir.passes.tiling.layouts import Layout
from mpkir.passes.tiling.limits import Limits
from mpkir.passes.tiling.task_step import TaskStep, name_of


@dataclass(frozen=True)
class Exchanges:
    """Lowers the collectives of a step."""

    step: TaskStep
    limits: Limits

    def lower_all_reduce(self, op: tensor.AllReduceOp) -> None:
        """A sum over ranks adds the rows that they have written, in tasks of few columns."""
        buffer, layouts = self.sent_rows(op)
        self.add_sum(op, buffer, layouts)

    def lower_reduce_scatter(self, op: tensor.ReduceScatterOp) -> None:
        """So does one of which a rank has its part, of the rows that it has got."""
        place = self.step.buffers[op.x]
        if task.scatter_of(place) is None:
            place = self.send(op)
        buffer, part = buffer_of(place), Layout.dense(tensor.shape_of(op.result))
        self.add_sum(op, buffer, rows_of(buffer, part, op.of.value.data))

    def lower_all_gather(self, op: tensor.AllGatherOp) -> None:
        """What all ranks have written is a view of their rows, or is copied where it is none."""
        buffer, layouts = self.sent_rows(op)
        apart = gathered(layouts, op.dim.value.data)
        whole = apart.reshaped(tensor.shape_of(op.result))
        if whole is not None:
            self.step.add_view(op.result, buffer.result, whole)
            return
        rows = stand_in(op.x, apart.shape)
        self.step.add_view(rows, buffer.result, apart)
        copied = stand_in(op.x, apart.shape)
        self.lower_instead(op, identity(rows), copied)
        self.step.add_view(
            op.result, self.step.buffers[copied], Layout.dense(tensor.shape_of(op.result))
        )

    def send(self, op: Collective | tensor.ReduceScatterOp) -> SSAValue:
        """Copy what a collective sends to where its ranks find it; the place."""
        name = self.step.fresh(f"send.{buffer_of(self.step.buffers[op.x]).sym.data}")
        if isinstance(op, tensor.ReduceScatterOp):
            place = self.step.scattered(name, op)
        else:
            place = self.step.exchange(name, op.x)
        copy = identity(op.x)
        copy.location = op.location
        self.step.add_grid(copy, spread_thin(copy, self.limits), [place], name)
        copy.erase()
        return place

    def sent_rows(self, op: Collective) -> tuple[BufferOp, list[Layout]]:
        """The exchange buffer of what a collective sends, and where in it the different values lie.

        What somebody else reads too, or nobody has made, is copied there.
        """
        place = self.step.buffers[op.x]
        if not task.is_mine(place):
            place = self.send(op)
        buffer = buffer_of(place)
        return buffer, rows_of(buffer, Layout.of(place), op.of.value.data)

    def add_sum(
        self,
        op: tensor.AllReduceOp | tensor.ReduceScatterOp,
        buffer: BufferOp,
        layouts: Sequence[Layout],
    ) -> None:
        """Add the tasks that add these rows of a buffer."""
        apart = gathered(layouts, 0)
        together = stand_in(op.x, apart.shape)
        self.step.add_view(together, buffer.result, apart)
        rows = stand_ins(op.x, apart.shape[1:], len(layouts))
        places = {row: (together, number) for number, row in enumerate(rows)}
        self.lower_instead(op, sum_of(op, rows), rows=places)

    def lower_instead(
        self,
        op: Collective | tensor.ReduceScatterOp,
        other: tensor.ElementwiseOp,
        value: SSAValue | None = None,
        rows: Mapping[SSAValue, tuple[SSAValue, int]] | None = None,
    ) -> None:
        """Lower an operator of elements in the place of one; `value`, or the result of that, is
        what it makes. `rows`: its operands that are rows of a value, by number."""
        value = op.result if value is None else value
        other.location = op.location
        family = self.step.fresh(name_of(op.location) or op.name.removeprefix("mpk_tensor."))
        self.step.buffers[value] = target = self.step.target(value, family)
        self.step.add_grid(other, spread_thin(other, self.limits), [target], family, rows=rows)
        other.erase()
