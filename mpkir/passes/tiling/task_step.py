"""The task-level step under construction: buffers, where in them each value lies, and families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from xdsl.dialects.builtin import LocationAttr, MemRefType, NameLoc, UnitAttr
from xdsl.ir import Attribute, Block, Operation, SSAValue

from mpkir.analysis.families import buffer_of
from mpkir.dialects import task, tensor
from mpkir.dialects.task import BufferKind, BufferOp
from mpkir.passes.tiling.collectives import is_only_sent, scatter_for
from mpkir.passes.tiling.grids import grid_of
from mpkir.passes.tiling.layouts import Layout, view_of
from mpkir.passes.tiling.tiling import Tiling


def name_of(location: LocationAttr) -> str | None:
    """What an operator is called, if it has a name."""
    return location.desc.data if isinstance(location, NameLoc) and location.desc.data else None


def _buffer_type(value: SSAValue) -> MemRefType[Attribute]:
    type = tensor.tensor_type_of(value)
    return MemRefType(type.get_element_type(), type.get_shape())


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
class TaskStep:
    """What is there so far. `ranks` run it together; `names`, which grow, are taken; `outputs` can
    be written by who makes the value.
    """

    ranks: int
    names: set[str]
    outputs: Mapping[SSAValue, str]
    block: Block = field(default_factory=Block)
    buffers: _Places = field(default_factory=_Places)
    named: dict[tuple[BufferKind, str, Attribute], SSAValue] = field(
        default_factory=dict[tuple[BufferKind, str, Attribute], SSAValue]
    )

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

    def add_view(self, value: SSAValue, place: SSAValue, layout: Layout) -> None:
        """Let a value be a view of a place."""
        self.block.add_op(view := view_of(place, layout))
        self.buffers[value] = view.result

    def target(self, result: SSAValue, name: str) -> SSAValue:
        """Where an operator writes a result: an output, all ranks' memories, or its own."""
        if result in self.outputs:
            return self.buffer(BufferKind.OUTPUT, self.outputs[result], result)
        if is_only_sent(result):
            return self.exchange(name, result)
        if (scatter := scatter_for(result)) is not None:
            return self.scattered(name, scatter)
        return self.buffer(BufferKind.SCRATCH, name, result)

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

    def add_grid(
        self,
        op: Operation,
        tiling: Tiling,
        targets: Sequence[SSAValue],
        name: str,
        updated: Mapping[SSAValue, SSAValue] | None = None,
        rows: Mapping[SSAValue, tuple[SSAValue, int]] | None = None,
    ) -> None:
        """Add the family of one operator; `updated` are the buffers of operands that it updates;
        `rows` as for `grid_of`.
        """
        places = {**self.buffers, **(updated or {})}
        grid = grid_of(op, tiling, places, targets, name, rows)
        self.block.add_op(grid)
        for target in map(buffer_of, targets):
            if target.kind.data is BufferKind.STATE:
                target.donated = UnitAttr()
