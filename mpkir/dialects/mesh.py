"""The mesh of a program: how many ranks (GPUs, or processes) run it together, each on its shards.

It stands on the module, `mpk.mesh = {tp = 4}`: one axis, tensor parallelism. Every rank runs the
same program; a module without a mesh is one rank's.
"""

from __future__ import annotations

from xdsl.dialects.builtin import DictionaryAttr, IntegerAttr, ModuleOp, i64
from xdsl.ir import Operation
from xdsl.utils.exceptions import VerifyException

MESH = "mpk.mesh"
AXIS = "tp"


def ranks_around(op: Operation) -> int | None:
    """How many ranks run the program that an op stands in; None where nothing says so, as around
    an op that stands alone. VerifyException for a mesh that is none."""
    top = op
    while (parent := top.parent_op()) is not None:
        top = parent
    mesh = top.attributes.get(MESH)
    if mesh is None:
        return None
    if isinstance(mesh, DictionaryAttr) and set(mesh.data) == {AXIS}:
        size = mesh.data[AXIS]
        if isinstance(size, IntegerAttr) and size.value.data >= 1:
            return size.value.data
    raise VerifyException(f"a mesh is {{{AXIS} = N}} with N >= 1, got {mesh}")


def ranks_of(op: Operation) -> int:
    """How many ranks run the program that an op stands in, or a module: 1 where nothing says so."""
    return ranks_around(op) or 1


def set_ranks(module: ModuleOp, ranks: int) -> None:
    """Give a module its mesh."""
    module.attributes[MESH] = DictionaryAttr({AXIS: IntegerAttr(ranks, i64)})


def check_shards(op: Operation, of: int, what: str) -> None:
    """VerifyException unless the ranks around an op share `of` shards evenly."""
    if of < 2:
        raise VerifyException(f"{what} has two shards or more, not {of}")
    ranks = ranks_around(op)
    if ranks is not None and ranks % of:
        raise VerifyException(f"{ranks} ranks do not share {of} shards of {what} evenly")


def shard_of(rank: int, ranks: int, of: int) -> int:
    """Which of `of` shards a rank has: neighbouring ranks share one where there are fewer."""
    return rank * of // ranks
