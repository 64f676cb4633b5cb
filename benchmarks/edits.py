"""Changes to a module that can be taken back, and one task taken out of its family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from xdsl.dialects.builtin import ArrayAttr, DenseArrayBase, i64
from xdsl.ir import Operation, SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap
from xdsl.utils.exceptions import VerifyException

from mpkir.dialects import task
from mpkir.dialects.event import EdgeAttr


@dataclass
class Edits:
    """Changes to a module, which can be undone. `text` says which they are."""

    text: str = ""
    _undo: list[Callable[[], None]] = field(default_factory=list)
    changed: list[Operation] = field(default_factory=list)
    touches_buffers: bool = False
    """Whether tasks touch other elements than before."""

    def set(self, op: Operation, name: str, value: Any) -> None:
        """Set or remove a property of an op."""
        old = op.properties.get(name)

        def put(value: Any) -> None:
            if value is None:
                op.properties.pop(name, None)
            else:
                op.properties[name] = value

        put(value)
        self.changed.append(op)
        self._undo.append(lambda: put(old))

    def operand(self, op: Operation, at: int, value: SSAValue) -> None:
        """Let an op use another value."""
        old = op.operands[at]
        op.operands[at] = value
        self.changed.append(op)
        self.touches_buffers = True
        self._undo.append(lambda: op.operands.__setitem__(at, old))

    def replace(self, op: Operation, others: Sequence[Operation]) -> None:
        """Put other ops in the place of one."""
        block = op.parent_block()
        assert block is not None
        block.insert_ops_before(list(others), op)
        op.detach()

        def back() -> None:
            block.insert_op_before(op, others[0])
            for other in others:
                other.detach()

        self._undo.append(back)

    def are_valid(self) -> bool:
        """Whether the dialects take what has been changed."""
        try:
            for op in self.changed:
                op.verify(verify_nested_ops=False)
        except VerifyException:
            return False
        return True

    def undo(self) -> None:
        """Take all changes back."""
        for back in reversed(self._undo):
            back()
        self._undo.clear()


def part_of(grid: task.GridOp, suffix: str, begin: int, end: int) -> task.GridOp:
    """Tasks begin .. end - 1 of a family, as a family on a line."""
    coordinates: list[AffineExpr] = []
    place: AffineExpr = AffineExpr.dimension(0) + begin
    if end == begin + 1:
        place = AffineExpr.constant(begin)
    inner = grid.size
    for size in grid.grid:
        inner //= size
        coordinate = place // inner if inner > 1 else place
        coordinates.append(coordinate % size if len(grid.grid) > 1 else coordinate)

    def moved(map: AffineMap) -> AffineMap:
        return map.replace_dims_and_symbols(coordinates, [], 1, 0)

    def edges(of: ArrayAttr[EdgeAttr] | None) -> ArrayAttr[EdgeAttr] | None:
        if of is None:
            return None
        return ArrayAttr(EdgeAttr(e.event, moved(e.index.data), e.lag) for e in of)

    part = task.GridOp(
        f"{grid.sym_name.data}.{suffix}",
        [end - begin],
        list(grid.reads),
        list(grid.writes),
        [task.RegionAttr(moved(box.offsets.data), box.shape) for box in grid.boxes],
        grid.body.clone(),
    )
    for name, value in (("waits", edges(grid.waits)), ("signals", edges(grid.signals))):
        if value is not None:
            part.properties[name] = value
    for name in ("workers", "slots"):
        value = grid.properties.get(name)
        if isinstance(value, DenseArrayBase):
            part.properties[name] = DenseArrayBase.from_list(i64, value.get_values()[begin:end])
    for name in ("stream", "dynamic"):
        if name in grid.properties:
            part.properties[name] = grid.properties[name]
    part.location = grid.location
    return part
