"""fuse-events: events with the same waiters, or with the same signallers, become one."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from mpkir.passes.event_graph import EventGraph, Tensor, Tie, united


def _ties(ties: list[Tie]) -> Hashable:
    return tuple(sorted((tie.family.number, tie.counter.tobytes()) for tie in ties))


def _waiters(tensor: Tensor) -> Hashable:
    return tensor.counters, tensor.lag, _ties(tensor.waits)


def _signallers(tensor: Tensor) -> Hashable:
    return tensor.counters, tensor.lag, _ties(tensor.signals)


def _fuse(tensors: list[Tensor], key: Callable[[Tensor], Hashable]) -> list[Tensor]:
    """Merge tensors of equal key in which no family would use two counters."""
    groups: dict[Hashable, list[Tensor]] = {}
    for tensor in tensors:
        group = groups.setdefault(key(tensor), [])
        for known in group:
            signals = united(known.signals, tensor.signals)
            waits = united(known.waits, tensor.waits)
            if signals is not None and waits is not None:
                known.signals, known.waits = signals, waits
                break
        else:
            group.append(tensor)
    kept = {id(tensor) for group in groups.values() for tensor in group}
    return [tensor for tensor in tensors if id(tensor) in kept]


@dataclass(frozen=True)
class FuseEventsPass(ModulePass):
    """Merge events that the same tasks wait for, and events that the same tasks signal.

    The paper's successor-set and predecessor-set fusion (definitions 4.1 and 4.2) on whole event
    tensors, to a fixed point. No task waits for more than before.
    """

    name = "mpk-fuse-events"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        graph = EventGraph.read(op)
        count = len(graph.tensors) + 1
        while len(graph.tensors) < count:
            count = len(graph.tensors)
            graph.tensors = _fuse(graph.tensors, _waiters)
            graph.tensors = _fuse(graph.tensors, _signallers)
        graph.write(op)
