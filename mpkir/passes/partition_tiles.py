"""partition-tiles: operators on tensors become families of tasks on buffers.

Every value gets a buffer; reshapes, slices, transposes and broadcasts are other views of their
source's; a state that an operator updates stays in its buffer. Each operator becomes a
`mpk_task.grid` whose body is the same operator on tiles, with the boxes that its tiling rule gives.
Where a value is still read after its buffer has got another, or where it lies otherwise than an
operator can read it, it is copied first. What ranks exchange is written into the memories of all by
the operator that makes it.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import FunctionType, ModuleOp
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from mpkir.analysis.families import buffer_of
from mpkir.dialects import tensor
from mpkir.dialects.mesh import ranks_of
from mpkir.dialects.task import BufferKind
from mpkir.errors import MpkirError
from mpkir.passes.tiling.exchanges import Exchanges
from mpkir.passes.tiling.layouts import VIEWS, Layout, misplaced, through
from mpkir.passes.tiling.lifetimes import IN_PLACE, Lifetimes
from mpkir.passes.tiling.limits import Limits
from mpkir.passes.tiling.rules import tiling_of
from mpkir.passes.tiling.task_step import TaskStep, name_of
from mpkir.passes.tiling.updates import Updates


@dataclass(frozen=True)
class _Partition:
    """Lowers the operators of a step, one after another."""

    step: TaskStep
    limits: Limits
    updates: Updates
    exchanges: Exchanges

    def lower(self, op: Operation) -> None:
        """Lower one operator of the step."""
        match op:
            case tensor.WeightOp():
                place = self.step.buffer(BufferKind.WEIGHT, op.sym.data, op.result)
                if op.parts is not None:
                    buffer_of(place).parts = op.parts
                buffer_of(place).shard = op.shard
                self.step.buffers[op.result] = place
            case tensor.InputOp():
                self.step.buffers[op.result] = self.step.buffer(
                    BufferKind.INPUT, op.sym.data, op.result
                )
            case tensor.StateOp():
                place = self.step.buffer(
                    BufferKind.STATE, op.sym.data, op.result, op.initial.value.data
                )
                buffer_of(place).shard = op.shard
                self.step.buffers[op.result] = place
            case tensor.PositionOp():
                pass  # each body that needs it has its own
            case tensor.StoreStateOp():
                self.updates.store(op, self.step.buffer(BufferKind.STATE, op.sym.data, op.value))
            case tensor.OutputOp():
                place = self.step.buffer(BufferKind.OUTPUT, op.sym.data, op.value)
                buffer_of(place).shard = op.shard
                self.updates.store(op, place)
            case tensor.AllReduceOp():
                self.exchanges.lower_all_reduce(op)
            case tensor.AllGatherOp():
                self.exchanges.lower_all_gather(op)
            case tensor.ReduceScatterOp():
                self.exchanges.lower_reduce_scatter(op)
            case _:
                if not self.lower_view(op):
                    self.lower_operator(op)

    def lower_view(self, op: Operation) -> bool:
        """Make an operator that moves nothing a view; whether it is one."""
        if (
            not isinstance(op, VIEWS)
            or op.source not in self.step.buffers
            or op.result in self.step.outputs
        ):
            return False
        layout = through(op, Layout.of(self.step.buffers[op.source]))
        if layout is None:
            return False
        self.step.add_view(op.result, self.step.buffers[op.source], layout)
        return True

    def lower_operator(self, op: Operation) -> None:
        """An operator becomes a family; its results get buffers."""
        for value in misplaced(op, self.step.buffers):
            self.updates.materialize(value, op.location)
        name = name_of(op.location) or op.name.removeprefix("mpk_tensor.")
        in_place = IN_PLACE.get(type(op), {})
        targets: list[SSAValue] = []
        updated: dict[SSAValue, SSAValue] = {}
        family = self.step.fresh(name)
        for index, result in enumerate(op.results):
            if index in in_place:
                operand = getattr(op, in_place[index])
                target = updated[operand] = self.updates.place_in_operand(op, operand, result)
            else:
                suffix = f"#{index}" if len(op.results) > 1 else ""
                target = self.step.target(result, family + suffix)
            self.step.buffers[result] = target
            targets.append(target)
        self.step.add_grid(op, tiling_of(op, self.limits), targets, family, updated)


def _names_outside(block: Block) -> set[str]:
    """Names that the world outside knows; MpkirError if one means two things."""
    kinds: dict[str, str] = {}
    for op in block.ops:
        if isinstance(op, tensor.WeightOp | tensor.InputOp | tensor.StateOp | tensor.OutputOp):
            name, kind = op.sym.data, op.name.removeprefix("mpk_tensor.")
            if kinds.setdefault(name, kind) != kind:
                raise MpkirError(
                    f"'{name}' is the name of one {kinds[name]} and of one {kind}",
                    where=name_of(op.location),
                    hint="rename one of them",
                )
    return set(kinds)


def _outputs_of(block: Block) -> dict[SSAValue, str]:
    """Values that an operator can write straight to an output: each output's, once."""
    result: dict[SSAValue, str] = {}
    for op in block.ops:
        if not isinstance(op, tensor.OutputOp) or op.value in result:
            continue
        owner = op.value.owner
        if isinstance(owner, Operation) and not isinstance(
            owner, tensor.WeightOp | tensor.InputOp | tensor.StateOp | tensor.PositionOp
        ):
            result[op.value] = op.sym.data
    return result


@dataclass(frozen=True)
class PartitionTilesPass(ModulePass):
    """Turn the operators of a step into families of tasks.

    `workers`: SMs or threads to fill; `max_rows`: most output features of one task of a linear;
    `task_overhead`: cost of one more task in bytes of weights; `min_elements`: fewest elements
    worth a task of a pointwise operator; `row_multiple`: output features of a linear's task are a
    multiple of it; `max_rows_of_many`: `max_rows` of 8 rows of x and more, 0: as many.
    """

    name = "mpk-partition-tiles"

    workers: int = 132
    max_rows: int = 32
    task_overhead: int = 8192
    min_elements: int = 2048
    row_multiple: int = 1
    max_rows_of_many: int = 0

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        limits = Limits(
            self.workers,
            self.max_rows,
            self.task_overhead,
            self.min_elements,
            self.row_multiple,
            self.max_rows_of_many,
        )
        for step in tuple(op.body.block.ops):
            if not isinstance(step, func.FuncOp):
                continue
            source = step.body.block
            built = TaskStep(ranks_of(op), _names_outside(source), _outputs_of(source))
            partition = _Partition(
                built, limits, Updates(built, Lifetimes.of(source)), Exchanges(built, limits)
            )
            # States first: what they hold when the step begins may be asked for after a store.
            for inner in sorted(source.ops, key=lambda op: not isinstance(op, tensor.StateOp)):
                if not isinstance(inner, func.ReturnOp):
                    partition.lower(inner)
            built.block.add_op(func.ReturnOp())
            lowered = func.FuncOp(
                step.sym_name.data, FunctionType.from_lists([], []), Region(built.block)
            )
            lowered.location = step.location
            Rewriter.replace_op(step, lowered)
