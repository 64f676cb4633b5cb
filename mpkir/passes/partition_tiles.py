"""partition-tiles: operators on tensors become families of tasks on buffers.

Every value gets a buffer; reshapes, slices, transposes and broadcasts are other views of their
source's; a state that an operator updates stays in its buffer. Each operator becomes a
`mpk_task.grid` whose body is the same operator on tiles, with the boxes that its tiling rule gives.
Where a value is still read after its buffer has got another, or where it lies otherwise than an
operator can read it, it is copied first. What ranks exchange is written into the memories of all by
the operator that makes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import (
    DenseArrayBase,
    FunctionType,
    LocationAttr,
    MemRefType,
    ModuleOp,
    NameLoc,
    TensorType,
    UnitAttr,
    i32,
    i64,
)
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from mpkir.analysis.families import buffer_of
from mpkir.dialects import task, tensor
from mpkir.dialects.mesh import ranks_of
from mpkir.dialects.task import BufferKind, BufferOp, GridOp, RegionAttr
from mpkir.errors import MpkirError
from mpkir.passes.tiling.collectives import (
    Collective,
    gathered,
    identity,
    is_only_sent,
    rows_of,
    scatter_for,
    spread_thin,
    stand_in,
    stand_ins,
    sum_of,
)
from mpkir.passes.tiling.layouts import VIEWS, Layout, is_whole, misplaced, through, view_of
from mpkir.passes.tiling.lifetimes import IN_PLACE, Lifetimes
from mpkir.passes.tiling.limits import Limits
from mpkir.passes.tiling.rules import tiling_of
from mpkir.passes.tiling.tiling import Tiling, whole


def _buffer_type(value: SSAValue) -> MemRefType[Attribute]:
    type = tensor.tensor_type_of(value)
    return MemRefType(type.get_element_type(), type.get_shape())


def _name_of(location: LocationAttr) -> str | None:
    return location.desc.data if isinstance(location, NameLoc) and location.desc.data else None


def _retype(region: Region, old: tuple[int, ...], new: tuple[int, ...]) -> None:
    """Give every value of a prologue that has the whole operand's shape the shape of its tile."""
    for block in region.blocks:
        values = [*block.args, *(result for op in block.ops for result in op.results)]
        for value in values:
            if isinstance(value.type, TensorType) and tensor.shape_of(value) == old:
                Rewriter.replace_value_with_new_type(
                    value, TensorType(tensor.element_type_of(value), new)
                )


def _tile_type(value: SSAValue, box: RegionAttr) -> TensorType[Attribute]:
    return TensorType(tensor.element_type_of(value), box.shape)


class _Places(dict[SSAValue, SSAValue]):
    """The buffer or view in which each value is, and the values that each buffer holds."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[BufferOp, dict[SSAValue, None]] = {}

    def __setitem__(self, value: SSAValue, place: SSAValue) -> None:
        if value in self:
            del self.held[buffer_of(self[value])][value]
        super().__setitem__(value, place)
        self.held.setdefault(buffer_of(place), {})[value] = None


@dataclass
class _Partition:
    """The task-level step under construction."""

    limits: Limits
    lifetimes: Lifetimes
    ranks: int
    block: Block = field(default_factory=Block)
    buffers: _Places = field(default_factory=_Places)
    named: dict[tuple[BufferKind, str, Attribute], SSAValue] = field(
        default_factory=dict[tuple[BufferKind, str, Attribute], SSAValue]
    )
    names: set[str] = field(default_factory=set[str])
    outputs: dict[SSAValue, str] = field(default_factory=dict[SSAValue, str])

    def buffer(self, kind: BufferKind, name: str, like: SSAValue, initial: int = 0) -> SSAValue:
        """The buffer of this kind and name for values like this, made when first asked for.

        A rank may have all of a weight, and its shard of the same one beside it.
        """
        type = _buffer_type(like)
        if (kind, name, type) not in self.named:
            op = BufferOp(kind, name, type, initial)
            self.block.add_op(op)
            self.named[kind, name, type] = op.result
        return self.named[kind, name, type]

    def fresh(self, name: str) -> str:
        """A name that no family and no buffer has yet."""
        number, candidate = 1, name
        while candidate in self.names:
            number, candidate = number + 1, f"{name}.{number}"
        self.names.add(candidate)
        return candidate

    def lower(self, op: Operation) -> None:
        """Lower one operator of the step."""
        match op:
            case tensor.WeightOp():
                place = self.buffer(BufferKind.WEIGHT, op.sym.data, op.result)
                if op.parts is not None:
                    buffer_of(place).parts = op.parts
                buffer_of(place).shard = op.shard
                self.buffers[op.result] = place
            case tensor.InputOp():
                self.buffers[op.result] = self.buffer(BufferKind.INPUT, op.sym.data, op.result)
            case tensor.StateOp():
                place = self.buffer(BufferKind.STATE, op.sym.data, op.result, op.initial.value.data)
                buffer_of(place).shard = op.shard
                self.buffers[op.result] = place
            case tensor.PositionOp():
                pass  # each body that needs it has its own
            case tensor.StoreStateOp():
                self.store(op, self.buffer(BufferKind.STATE, op.sym.data, op.value))
            case tensor.OutputOp():
                place = self.buffer(BufferKind.OUTPUT, op.sym.data, op.value)
                buffer_of(place).shard = op.shard
                self.store(op, place)
            case tensor.AllReduceOp():
                self.lower_all_reduce(op)
            case tensor.AllGatherOp():
                self.lower_all_gather(op)
            case tensor.ReduceScatterOp():
                self.lower_reduce_scatter(op)
            case _:
                if not self.lower_view(op):
                    self.lower_operator(op)

    def lower_view(self, op: Operation) -> bool:
        """Make an operator that moves nothing a view; whether it is one."""
        if not isinstance(op, VIEWS) or op.source not in self.buffers or op.result in self.outputs:
            return False
        layout = through(op, Layout.of(self.buffers[op.source]))
        if layout is None:
            return False
        self.add_view(op.result, self.buffers[op.source], layout)
        return True

    def add_view(self, value: SSAValue, place: SSAValue, layout: Layout) -> None:
        """Let a value be a view of a place."""
        self.block.add_op(view := view_of(place, layout))
        self.buffers[value] = view.result

    def exchange(self, name: str, like: SSAValue) -> SSAValue:
        """A new exchange buffer for a value: the own rank's row of it, to be written."""
        type = MemRefType(tensor.element_type_of(like), (self.ranks, *tensor.shape_of(like)))
        buffer = BufferOp(BufferKind.SCRATCH, name, type, exchange=True)
        self.block.add_ops([buffer, mine := task.MineOp(buffer.result)])
        return mine.result

    def scattered(self, name: str, op: tensor.ReduceScatterOp) -> SSAValue:
        """A new exchange buffer for the parts of what an operator scatters, to be written as a
        whole.
        """
        shape = (self.ranks, *tensor.shape_of(op.result))
        type = MemRefType(tensor.element_type_of(op.x), shape)
        buffer = BufferOp(BufferKind.SCRATCH, name, type, exchange=True)
        scatter = task.ScatterOp(buffer.result, op.dim.value.data, op.of.value.data)
        self.block.add_ops([buffer, scatter])
        return scatter.result

    def send(self, op: Collective | tensor.ReduceScatterOp) -> SSAValue:
        """Copy what a collective sends to where its ranks find it; the place."""
        name = self.fresh(f"send.{buffer_of(self.buffers[op.x]).sym.data}")
        if isinstance(op, tensor.ReduceScatterOp):
            place = self.scattered(name, op)
        else:
            place = self.exchange(name, op.x)
        copy = identity(op.x)
        copy.location = op.location
        self.add_grid(copy, spread_thin(copy, self.limits), [place], name)
        copy.erase()
        return place

    def sent_rows(self, op: Collective) -> tuple[BufferOp, list[Layout]]:
        """The exchange buffer of what a collective sends, and where in it the different values lie.

        What somebody else reads too, or nobody has made, is copied there.
        """
        place = self.buffers[op.x]
        if not task.is_mine(place):
            place = self.send(op)
        buffer = buffer_of(place)
        return buffer, rows_of(buffer, Layout.of(place), op.of.value.data)

    def lower_all_reduce(self, op: tensor.AllReduceOp) -> None:
        """A sum over ranks adds the rows that they have written, in tasks of few columns."""
        buffer, layouts = self.sent_rows(op)
        self.add_sum(op, buffer, layouts)

    def lower_reduce_scatter(self, op: tensor.ReduceScatterOp) -> None:
        """So does one of which a rank has its part, of the rows that it has got."""
        place = self.buffers[op.x]
        if task.scatter_of(place) is None:
            place = self.send(op)
        buffer, part = buffer_of(place), Layout.dense(tensor.shape_of(op.result))
        self.add_sum(op, buffer, rows_of(buffer, part, op.of.value.data))

    def add_sum(
        self,
        op: tensor.AllReduceOp | tensor.ReduceScatterOp,
        buffer: BufferOp,
        layouts: Sequence[Layout],
    ) -> None:
        """Add the tasks that add these rows of a buffer."""
        apart = gathered(layouts, 0)
        together = stand_in(op.x, apart.shape)
        self.add_view(together, buffer.result, apart)
        rows = stand_ins(op.x, apart.shape[1:], len(layouts))
        places = {row: (together, number) for number, row in enumerate(rows)}
        self.lower_instead(op, sum_of(op, rows), rows=places)

    def lower_all_gather(self, op: tensor.AllGatherOp) -> None:
        """What all ranks have written is a view of their rows, or is copied where it is none."""
        buffer, layouts = self.sent_rows(op)
        apart = gathered(layouts, op.dim.value.data)
        whole = apart.reshaped(tensor.shape_of(op.result))
        if whole is not None:
            self.add_view(op.result, buffer.result, whole)
            return
        rows = stand_in(op.x, apart.shape)
        self.add_view(rows, buffer.result, apart)
        copied = stand_in(op.x, apart.shape)
        self.lower_instead(op, identity(rows), copied)
        self.add_view(op.result, self.buffers[copied], Layout.dense(tensor.shape_of(op.result)))

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
        family = self.fresh(_name_of(op.location) or op.name.removeprefix("mpk_tensor."))
        self.buffers[value] = target = self.target(value, family)
        self.add_grid(other, spread_thin(other, self.limits), [target], family, rows=rows)
        other.erase()

    def target(self, result: SSAValue, name: str) -> SSAValue:
        """Where an operator writes a result: an output, all ranks' memories, or its own."""
        if result in self.outputs:
            return self.buffer(BufferKind.OUTPUT, self.outputs[result], result)
        if is_only_sent(result):
            return self.exchange(name, result)
        if (scatter := scatter_for(result)) is not None:
            return self.scattered(name, scatter)
        return self.buffer(BufferKind.SCRATCH, name, result)

    def store(self, op: tensor.StoreStateOp | tensor.OutputOp, target: SSAValue) -> None:
        """Copy a value to a named buffer, unless it is there already."""
        place = self.buffers.get(op.value)
        if place is not None and buffer_of(place) is target.owner:
            if is_whole(place):
                return
            self.materialize(op.value, op.location)
        self.save_values_in(target, op)
        self.add_copy(op.value, target, self.fresh(f"store.{op.sym.data}"), op.location)

    def save_values_in(self, buffer: SSAValue, op: Operation) -> None:
        """Copy what the buffer holds if it is read after `op`, which replaces it."""
        held = self.buffers.held.get(buffer_of(buffer), {})
        live = [value for value in held if self.lifetimes.is_read_after(value, op)]
        if not live:
            return
        name = f"keep.{buffer_of(buffer).sym.data}"
        whole = [value for value in live if is_whole(self.buffers[value])]
        for value in live:
            if value not in whole:
                self.materialize(value, op.location, name)
        for value in whole[:1]:
            self.materialize(value, op.location, name)
        for value in whole[1:]:
            self.buffers[value] = self.buffers[whole[0]]
            if value.type != whole[0].type:
                self.add_view(value, self.buffers[whole[0]], Layout.dense(tensor.shape_of(value)))

    def materialize(self, value: SSAValue, location: LocationAttr, name: str | None = None) -> None:
        """Copy a value to a buffer of its own, where it is read from now on."""
        name = self.fresh(name or f"copy.{buffer_of(self.buffers[value]).sym.data}")
        own = self.buffer(BufferKind.SCRATCH, name, value)
        self.add_copy(value, own, name, location)
        self.buffers[value] = own

    def add_copy(
        self, value: SSAValue, target: SSAValue, name: str, location: LocationAttr
    ) -> None:
        """Add the one task that copies a value to a buffer of its shape."""
        copy = tensor.ReshapeOp(value, tensor.shape_of(value))
        copy.location = location
        self.add_grid(copy, whole(copy.operands, copy.results), [target], name)
        copy.erase()

    def place_in_operand(self, op: Operation, operand: SSAValue, result: SSAValue) -> SSAValue:
        """The buffer of a result that is an update of an operand: the operand's, if it may go.

        MpkirError where another operand lies in that buffer, too.
        """
        place = self.buffers[operand]
        root = buffer_of(place)
        for other in dict.fromkeys(op.operands):
            beside = self.buffers.get(other)
            if beside is not None and buffer_of(beside) is root and not is_whole(beside):
                self.materialize(other, op.location)
        place = self.buffers[operand]
        root = buffer_of(place)
        places = [self.buffers[v] for v in op.operands if v in self.buffers]
        if sum(buffer_of(each) is root for each in places) > 1:
            raise MpkirError(
                f"{op.name} updates '{root.sym.data}' in place and reads it elsewhere, too",
                where=_name_of(op.location),
                hint="give it a copy",
            )
        kind = root.kind.data
        if (kind is BufferKind.SCRATCH and root.exchange is None) or (
            kind is BufferKind.STATE and self.lifetimes.is_at_home(result, root.sym.data)
        ):
            self.save_values_in(root.result, op)
            return place
        name = self.fresh(f"copy.{root.sym.data}")
        own = self.buffer(BufferKind.SCRATCH, name, operand)
        self.add_copy(operand, own, name, op.location)
        return own

    def lower_operator(self, op: Operation) -> None:
        """An operator becomes a family; its results get buffers."""
        for value in misplaced(op, self.buffers):
            self.materialize(value, op.location)
        name = _name_of(op.location) or op.name.removeprefix("mpk_tensor.")
        in_place = IN_PLACE.get(type(op), {})
        targets: list[SSAValue] = []
        updated: dict[SSAValue, SSAValue] = {}
        family = self.fresh(name)
        for index, result in enumerate(op.results):
            if index in in_place:
                operand = getattr(op, in_place[index])
                target = updated[operand] = self.place_in_operand(op, operand, result)
            else:
                suffix = f"#{index}" if len(op.results) > 1 else ""
                target = self.target(result, family + suffix)
            self.buffers[result] = target
            targets.append(target)
        self.add_grid(op, tiling_of(op, self.limits), targets, family, updated)

    def add_grid(
        self,
        op: Operation,
        tiling: Tiling,
        targets: Sequence[SSAValue],
        name: str,
        updated: Mapping[SSAValue, SSAValue] | None = None,
        rows: Mapping[SSAValue, tuple[SSAValue, int]] | None = None,
    ) -> None:
        """Add the family of one operator; `updated` are the buffers of operands that it updates.

        `rows` says which operands are rows of a value, and their numbers: of these a task reads all
        rows as one operand.
        """
        places = {**self.buffers, **(updated or {})}
        body = Block()
        positions: dict[SSAValue, SSAValue] = {}
        # A buffer that several operands read in the same box is one operand of the task.
        read: dict[tuple[SSAValue, RegionAttr], SSAValue] = {}
        tiles: list[SSAValue] = []
        for value, box in zip(op.operands, tiling.operands, strict=True):
            if isinstance(value.owner, tensor.PositionOp):
                if value not in positions:
                    body.add_op(position := value.owner.clone())
                    positions[value] = position.result
                tiles.append(positions[value])
                continue
            held, number = (rows or {}).get(value, (value, None))
            size = box.shape
            if number is not None:
                box = box.behind(tensor.shape_of(held)[0])
            key = (places[held], box)
            if key not in read:
                read[key] = body.insert_arg(_tile_type(value, box), len(body.args))
            tiles.append(read[key])
            if number is not None:
                body.add_op(row := tensor.SliceOp(read[key], 0, number, 1))
                body.add_op(tile := tensor.ReshapeOp(row.result, size))
                tiles[-1] = tile.result
        reads = [buffer for buffer, _ in read]
        boxes = [box for _, box in read]
        inner = op.clone()
        inner.operands = tiles
        if tiling.origin is not None:
            body.add_op(index := task.IndexOp(tiling.origin))
            _set_origin(inner, index.result)
        for whole_, result, box in zip(op.results, inner.results, tiling.results, strict=True):
            Rewriter.replace_value_with_new_type(result, _tile_type(whole_, box))
        self.retile_prologues(op, inner)
        body.add_ops([inner, task.YieldOp(*inner.results)])
        grid = GridOp(name, tiling.grid, reads, targets, [*boxes, *tiling.results], body)
        grid.location = op.location
        self.block.add_op(grid)
        for target in map(buffer_of, targets):
            if target.kind.data is BufferKind.STATE:
                target.donated = UnitAttr()

    @staticmethod
    def retile_prologues(op: Operation, inner: Operation) -> None:
        """Attention's prologues see tiles of q and k, an expert linear's rows of x, a linear's all
        of x.
        """
        if isinstance(op, tensor.AttentionOp | tensor.AttentionSplitOp | tensor.AttentionJoinOp):
            assert isinstance(
                inner, tensor.AttentionOp | tensor.AttentionSplitOp | tensor.AttentionJoinOp
            )
            for region, before, after in (
                (inner.q_prologue, op.q, inner.q),
                (inner.k_prologue, op.k, inner.k),
            ):
                if region is not None:
                    _retype(region, tensor.shape_of(before), tensor.shape_of(after))
        if isinstance(op, tensor.ExpertLinearOp):
            assert isinstance(inner, tensor.ExpertLinearOp)
            if inner.prologue is not None:
                _retype(inner.prologue, tensor.shape_of(op.x), tensor.shape_of(inner.x))
            # The boxes of the weights begin there already.
            inner.first_rows = DenseArrayBase.from_list(i64, [0] * len(inner.weights))


def _set_origin(op: Operation, origin: SSAValue) -> None:
    """Give a tile of a split operator the number of its first chunk."""
    if isinstance(op, tensor.ArgmaxPartialOp):
        op.operands = [*op.operands, origin]
        return
    assert isinstance(op, tensor.AttentionSplitOp)
    segments = op.properties["operandSegmentSizes"]
    assert isinstance(segments, DenseArrayBase)
    op.operands = [origin, *op.operands]
    op.properties["operandSegmentSizes"] = DenseArrayBase.from_list(
        i32, [1, *segments.get_values()[1:]]
    )


def _names_outside(block: Block) -> set[str]:
    """Names that the world outside knows; MpkirError if one means two things."""
    kinds: dict[str, str] = {}
    for op in block.ops:
        if isinstance(op, tensor.WeightOp | tensor.InputOp | tensor.StateOp | tensor.OutputOp):
            name, kind = op.sym.data, op.name.removeprefix("mpk_tensor.")
            if kinds.setdefault(name, kind) != kind:
                raise MpkirError(
                    f"'{name}' is the name of one {kinds[name]} and of one {kind}",
                    where=_name_of(op.location),
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
    worth a task of a pointwise operator; `row_multiple`: output features of such a task are a
    multiple of it.
    """

    name = "mpk-partition-tiles"

    workers: int = 132
    max_rows: int = 32
    task_overhead: int = 8192
    min_elements: int = 2048
    row_multiple: int = 1

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        limits = Limits(
            self.workers, self.max_rows, self.task_overhead, self.min_elements, self.row_multiple
        )
        for step in tuple(op.body.block.ops):
            if not isinstance(step, func.FuncOp):
                continue
            source = step.body.block
            partition = _Partition(
                limits,
                Lifetimes.of(source),
                ranks_of(op),
                names=_names_outside(source),
                outputs=_outputs_of(source),
            )
            # States first: what they hold when the step begins may be asked for after a store.
            for inner in sorted(source.ops, key=lambda op: not isinstance(op, tensor.StateOp)):
                if not isinstance(inner, func.ReturnOp):
                    partition.lower(inner)
            partition.block.add_op(func.ReturnOp())
            lowered = func.FuncOp(
                step.sym_name.data, FunctionType.from_lists([], []), Region(partition.block)
            )
            lowered.location = step.location
            Rewriter.replace_op(step, lowered)
