"""What a way to divide an operator costs, in microseconds of one rank on a machine model.

A step at decode time reads each weight once, so an operator takes its weights' and caches' bytes of
a rank over the memory's bandwidth. Activations are counted too, which decides between ways that
read the same weights: what a product multiplies is read by every worker, all of it, what others
read by all of them together. A collective takes a hop to another rank and the bytes that a rank
sends to all others; where partial sums are added, also the tasks that add them. A sum in parts is
two collectives, of which each sends a part of the bytes; what would be the sum's epilogue takes
tasks of its own. Arithmetic that would be a product's epilogue, were there no gather between them,
takes tasks of its own, and so does putting parts together that do not lie one after another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, prod

from xdsl.dialects.builtin import FixedBitwidthType
from xdsl.ir import Operation, SSAValue

from mpkir.analysis.exchange_times import sending_time
from mpkir.analysis.task_times import KILO
from mpkir.dialects import tensor
from mpkir.machine import Machine
from mpkir.passes.sharding.forms import Exchange, Form, Kind, Way, dim_of_parts

SOURCES = (tensor.WeightOp, tensor.StateOp)
"""Operators whose values come from memory, not from another operator of the step."""

_PRODUCTS = (tensor.LinearOp, tensor.ExpertLinearOp)


@dataclass(frozen=True)
class Costs:
    """The costs of ranks on a machine; `exchange_us`, if given, is what every collective costs.

    Without `scatters` no operator's result is a shard of a sum, at any price. `shots`: in how many
    collectives sums are made that all want, 1 or 2 (if they fall into parts); 0: as is cheapest.
    """

    machine: Machine
    ranks: int
    exchange_us: float | None = None
    scatters: bool = True
    shots: int = 0

    def of_way(self, op: Operation, way: Way) -> float:
        """Reading what an operator reads and exchanging what it exchanges."""
        from_memory = from_cache = by_worker = 0.0
        for value, form in zip(op.operands, way.operands, strict=True):
            shape = tensor.shape_of(value)
            size = _bytes_read(op, value) * prod(form.local(shape)) / prod(shape)
            if isinstance(value.owner, SOURCES):
                from_memory += size
            elif isinstance(op, _PRODUCTS) and value is op.x:
                by_worker += size
            else:
                from_cache += size
        by_worker += from_cache / self.machine.workers
        time = from_memory / (self.machine.memory_bandwidth * KILO)
        time += by_worker / (self.machine.timing.l2_bandwidth * KILO)
        if way.exchange is None:
            return time
        if self.shots == 2 and way.exchange.kind is Kind.SUM:
            shape = tensor.shape_of(op.results[0])
            if dim_of_parts(shape, way.exchange.of) is not None:
                return inf
        return time + self.of_exchange(way.exchange)

    def of_gather(self, value: SSAValue, form: Form, reader: Operation) -> float:
        """Giving every rank the whole of a value that each has a part of, first for this reader."""
        size = _bytes(value) // form.of
        time = self.of_exchange(Exchange(Kind.SHARDS, form.of, size))
        if isinstance(reader, tensor.ElementwiseOp) and isinstance(value.owner, _PRODUCTS):
            time += self.of_tasks()
        if prod(tensor.shape_of(value)[: form.dim]) > 1:
            time += self.of_tasks()  # parts that do not lie one after another are copied
        return time

    def of_tasks(self) -> float:
        """Handing something over to tasks on the own GPU that take each element by itself, as those
        of a sum do; to when all see what they made."""
        timing = self.machine.timing
        return self.machine.hops.flag + timing.l2_latency + timing.pointwise

    def of_exchange(self, exchange: Exchange) -> float:
        """One collective."""
        if exchange.kind is Kind.SHARD_OF_SUM and not self.scatters:
            return inf
        if exchange.kind is Kind.SUM_IN_PARTS and self.shots == 1:
            return inf
        if self.exchange_us is not None:
            return self.exchange_us
        if exchange.kind is Kind.SUM_IN_PARTS:
            shard = replace(exchange, kind=Kind.SHARD_OF_SUM)
            both = (shard, replace(exchange, kind=Kind.SHARDS))
            costs = replace(self, scatters=True)
            return sum(map(costs.of_exchange, both)) + self.of_tasks()
        time = self.machine.hops.peer + sending_time(exchange.bytes, self.ranks, self.machine)
        return time if exchange.kind is Kind.SHARDS else time + self.of_tasks()


def _bytes(value: SSAValue) -> int:
    element = tensor.element_type_of(value)
    width = element.bitwidth if isinstance(element, FixedBitwidthType) else 64
    return prod(tensor.shape_of(value)) * width // 8


def _bytes_read(op: Operation, value: SSAValue) -> float:
    """Bytes of an operand of which an operator makes use."""
    if isinstance(op, tensor.EmbeddingOp) and value is op.table:
        return _bytes(op.result)
    if isinstance(op, tensor.ExpertLinearOp) and value in op.weights:
        experts = tensor.shape_of(value)[0]
        return _bytes(value) / experts * min(op.slots, experts)
    return _bytes(value)
