"""Whether what attention reads of its caches is settled a step before, so that it may be early."""

from __future__ import annotations

from collections import defaultdict

from xdsl.dialects.builtin import ModuleOp

from mpkir.dialects import task, tensor

_ATTENTION = (tensor.AttentionOp, tensor.AttentionSplitOp, tensor.AttentionJoinOp)


def caches_are_settled(module: ModuleOp) -> bool:
    """Whether no task of a step (event level) but those of attention writes what these update in
    place, and each task alone writes its rows, one of them a step.

    Then a row of an earlier step was written by the task that reads it, a step before at the
    latest. Where layers share a cache, or something else moves rows, it is not so.
    """
    writers: defaultdict[task.BufferOp, list[task.GridOp]] = defaultdict(list)
    caches: set[task.BufferOp] = set()
    for grid in module.walk():
        if not isinstance(grid, task.GridOp):
            continue
        written = {task.buffer_of(value) for value in grid.writes}
        for buffer in written:
            writers[buffer].append(grid)
        if _kind(grid) is not None:
            caches |= written & {task.buffer_of(value) for value in grid.reads}
    for cache in caches:
        kinds = [_kind(grid) for grid in writers[cache]]
        # Those that split have all chunks, or all but the first, which one that joins has.
        if None in kinds or len(set(kinds)) < len(kinds):
            return False
        if tensor.AttentionOp in kinds and len(kinds) > 1:
            return False
    return True


def _kind(grid: task.GridOp) -> type | None:
    kinds = [type(op) for op in grid.walk() if isinstance(op, _ATTENTION)]
    return kinds[0] if kinds else None
