"""fuse-events: events with the same waiters, or with the same signallers, become one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from mpkir.analysis.families import Ints
from mpkir.passes.event_graph import EventGraph, Tensor, Tie, merged

Side = Callable[[Tensor], list[Tie]]
"""The waits, or the signals, of a tensor."""


def _partition(ties: Sequence[Tie]) -> tuple[Hashable, Ints]:
    """How ties split tasks among counters, whatever these are called, and the counters in the order
    of their first tasks.
    """
    ordered = sorted(ties, key=lambda tie: tie.family.number)
    counters = np.concatenate([tie.counter for tie in ordered])
    seen, first, inverse = np.unique(counters, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    families = tuple(tie.family.number for tie in ordered)
    return (families, rank[inverse].tobytes()), seen[np.argsort(first)]


def fuse(tensors: Sequence[Tensor], side: Side) -> list[Tensor]:
    """Merge tensors whose counters pair up so that both of a pair have the same tasks on a side.

    Left apart are those that no affine maps could say afterwards.
    """
    groups: dict[Hashable, list[Tensor]] = {}
    result: list[Tensor] = []
    for tensor in tensors:
        if not side(tensor):
            result.append(tensor)
            continue
        key, counters = _partition(side(tensor))
        group = groups.setdefault((tensor.kind, key), [])
        for number, known in enumerate(group):
            place = np.full(tensor.counters, -1, np.int64)
            place[counters] = _partition(side(known))[1]
            if (both := merged(known, tensor, place)) is not None:
                result[result.index(known)] = group[number] = both
                break
        else:
            group.append(tensor)
            result.append(tensor)
    return result


@dataclass(frozen=True)
class FuseEventsPass(ModulePass):
    """Merge events that the same tasks wait for, and events that the same tasks signal.

    The paper's successor-set and predecessor-set fusion (definitions 4.1 and 4.2), to a fixed
    point, on event tensors whose counters pair up, whatever maps choose them. No task waits for
    more than before.
    """

    name = "mpk-fuse-events"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        graph = EventGraph.read(op)
        count = len(graph.tensors) + 1
        while len(graph.tensors) < count:
            count = len(graph.tensors)
            graph.tensors = fuse(graph.tensors, attrgetter("waits"))
            graph.tensors = fuse(graph.tensors, attrgetter("signals"))
        graph.write(op)
