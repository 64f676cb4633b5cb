"""shard: a program for one GPU becomes the program of each of several that run it together.

Chosen is, for every operator, which part of it a rank does: output features of a product (columns),
features that it sums over (rows), heads of an attention, words of a vocabulary; or all of it, where
sharing costs more than it saves. Weights and states become shards, values the part that a rank has,
and collectives stand where ranks need each other's. Every rank runs the same program.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.ir import Block
from xdsl.passes import ModulePass
from xdsl.transforms.dead_code_elimination import dce
from xdsl.utils.hints import isa

from mpkir.dialects.mesh import MESH, ranks_of, set_ranks
from mpkir.errors import MpkirError
from mpkir.machine import machine_named
from mpkir.passes.sharding.costs import Costs
from mpkir.passes.sharding.remarks import can_divide, list_text, remarks_on
from mpkir.passes.sharding.rewriting import Division
from mpkir.passes.sharding.search import cheapest_ways

MAX_RANKS = 16

REMARKS = "mpk.shard_remarks"
"""The attribute of a module that says what is not divided among all ranks, and why."""


def remarks_of(module: ModuleOp) -> tuple[str, ...]:
    """What a module says of itself in that attribute."""
    remarks = module.attributes.get(REMARKS, ArrayAttr[StringAttr]([]))
    assert isa(remarks, ArrayAttr[StringAttr])
    return tuple(each.data for each in remarks)


@dataclass(frozen=True)
class ShardPass(ModulePass):
    """Divide a step among `tp` ranks, as cheaply as the model of `machine` says.

    `exchange_us` is what a collective costs instead of what the model says: so little as 0.0005
    divides even what is small. With `scatter`, operators may go on with the part of a sum that
    their rank has. `shots`: sums that all ranks want are made by all of them (1), or by each its
    part, which it then sends (2); 0: as is cheaper. Raises MpkirError for numbers of ranks that are
    none.
    """

    name = "mpk-shard"

    tp: int = 1
    machine: str = "h100"
    exchange_us: int | float | None = None
    scatter: bool = False
    shots: int = 0

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if not 1 <= self.tp <= MAX_RANKS:
            raise MpkirError(
                f"a program for {self.tp} ranks", hint=f"1 to {MAX_RANKS} can share it"
            )
        if self.tp == 1:
            return
        if MESH in op.attributes:
            raise MpkirError(
                f"the program is divided among {ranks_of(op)} ranks already",
                hint="begin with the one that was exported",
            )
        set_ranks(op, self.tp)
        machine = machine_named(self.machine)
        costs = Costs(machine, self.tp, self.exchange_us, self.scatter, self.shots)
        remarks: list[str] = []
        for step in op.body.block.ops:
            if isinstance(step, func.FuncOp):
                block = step.body.block
                _check_divisible(block, self.tp)
                ways = cheapest_ways(block, costs)
                remarks += remarks_on(block, ways, self.tp, MAX_RANKS)
                Division(self.tp, ways).apply(block)
        if remarks:
            op.attributes[REMARKS] = ArrayAttr(map(StringAttr, remarks))
        dce(op)


def _check_divisible(block: Block, tp: int) -> None:
    """MpkirError for a step of which nothing can be divided among so many ranks."""
    if can_divide(block, tp):
        return
    others = [n for n in range(2, MAX_RANKS + 1) if can_divide(block, n)]
    raise MpkirError(
        f"no product and no attention of the program can be divided among {tp} ranks",
        hint=f"{list_text(others)} could share some of them" if others else None,
    )
