"""The family of tasks that an operator becomes: its body is the same operator on tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xdsl.dialects.builtin import DenseArrayBase, TensorType, i32, i64
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.rewriter import Rewriter

from mpkir.dialects import task, tensor
from mpkir.dialects.task import GridOp, RegionAttr
from mpkir.passes.tiling.tiling import Tiling


def grid_of(
    op: Operation,
    tiling: Tiling,
    places: Mapping[SSAValue, SSAValue],
    targets: Sequence[SSAValue],
    name: str,
    rows: Mapping[SSAValue, tuple[SSAValue, int]] | None = None,
) -> GridOp:
    """The family of an operator that reads its operands where `places` says, and writes `targets`.

    `rows` says which operands are rows of a value, and their numbers: of these a task reads all
    rows as one operand.
    """
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
    _retile_prologues(op, inner)
    body.add_ops([inner, task.YieldOp(*inner.results)])
    grid = GridOp(name, tiling.grid, reads, targets, [*boxes, *tiling.results], body)
    grid.location = op.location
    return grid


def _tile_type(value: SSAValue, box: RegionAttr) -> TensorType[Attribute]:
    return TensorType(tensor.element_type_of(value), box.shape)


def _set_origin(op: Operation, origin: SSAValue) -> None:
    """Give a tile of a split operator the number of its first chunk."""
    if isinstance(op, tensor.ArgmaxPartialOp | tensor.ArgmaxJoinOp):
        op.operands = [*op.operands, origin]
        return
    assert isinstance(op, tensor.AttentionSplitOp)
    segments = op.properties["operandSegmentSizes"]
    assert isinstance(segments, DenseArrayBase)
    op.operands = [origin, *op.operands]
    op.properties["operandSegmentSizes"] = DenseArrayBase.from_list(
        i32, [1, *segments.get_values()[1:]]
    )


def _retile_prologues(op: Operation, inner: Operation) -> None:
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


def _retype(region: Region, old: tuple[int, ...], new: tuple[int, ...]) -> None:
    """Give every value of a prologue that has the whole operand's shape the shape of its tile."""
    for block in region.blocks:
        values = [*block.args, *(result for op in block.ops for result in op.results)]
        for value in values:
            if isinstance(value.type, TensorType) and tensor.shape_of(value) == old:
                Rewriter.replace_value_with_new_type(
                    value, TensorType(tensor.element_type_of(value), new)
                )
