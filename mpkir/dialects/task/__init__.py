"""mpk_task: families of tasks, each one worker's work, on regions of buffers.

One op states a whole family: a grid of tasks, the region of each buffer that a task reads or writes
as an affine function of its grid index, and as body the tensor operator on tiles of those sizes.
Later levels add to a family what it waits for and signals (edges of `mpk_event`), where its tasks
stand in the linear order, and on which worker each runs.
"""

from xdsl.ir import Dialect

from mpkir.dialects.task.buffers import (
    APART,
    BRIEF_TYPES,
    FEW_TOKENS,
    FLAGGED_TYPES,
    PACKED_COLUMNS,
    PACKED_ROWS,
    BufferKind,
    BufferKindAttr,
    BufferOp,
    MineOp,
    ViewOp,
    buffer_of,
    is_mine,
    is_packable,
    layout_of,
    memref_type_of,
    row_elements,
    row_major,
)
from mpkir.dialects.task.exchanges import (
    Parts,
    ScatterOp,
    layout_among_all,
    scatter_of,
    scattered,
)
from mpkir.dialects.task.grids import GridOp, IndexOp, YieldOp
from mpkir.dialects.task.panels import PanelsAttr
from mpkir.dialects.task.regions import RegionAttr
from mpkir.dialects.task.streams import RingOp, StreamAttr

Task = Dialect(
    "mpk_task",
    [BufferOp, ViewOp, MineOp, ScatterOp, RingOp, GridOp, IndexOp, YieldOp],
    [BufferKindAttr, PanelsAttr, RegionAttr, StreamAttr],
)

__all__ = [
    "APART",
    "BRIEF_TYPES",
    "FEW_TOKENS",
    "FLAGGED_TYPES",
    "PACKED_COLUMNS",
    "PACKED_ROWS",
    "BufferKind",
    "BufferKindAttr",
    "BufferOp",
    "GridOp",
    "IndexOp",
    "MineOp",
    "PanelsAttr",
    "Parts",
    "RegionAttr",
    "RingOp",
    "ScatterOp",
    "StreamAttr",
    "Task",
    "ViewOp",
    "YieldOp",
    "buffer_of",
    "is_mine",
    "is_packable",
    "layout_among_all",
    "layout_of",
    "memref_type_of",
    "row_elements",
    "row_major",
    "scatter_of",
    "scattered",
]
