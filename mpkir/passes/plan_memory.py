"""plan-memory: activations that do not live at the same time share memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import DictionaryAttr, IntegerAttr, MemRefType, ModuleOp, StringAttr, i64
from xdsl.ir import Attribute
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from mpkir.analysis.families import Family, families_of
from mpkir.analysis.precedence import precedence_of
from mpkir.analysis.storage import (
    DataOrder,
    Place,
    ProgramOrder,
    Value,
    bytes_of,
    peak_bytes,
    share,
    values_of,
)
from mpkir.dialects.task import BufferOp, ViewOp, memref_type_of
from mpkir.errors import MpkirError

ACTIVATIONS = "mpk.activations"
"""Attribute of a planned module. `unshared`: bytes of its activations had each memory of its own;
`live`: most bytes of them alive at once in program order; `planned`: what it takes now."""


def activation_bytes(module: ModuleOp) -> dict[str, int]:
    """What the pass found and made, by the names that manifests use; nothing without a plan.

    Bytes of activations now, of those alive at once, and had each memory of its own.
    """
    found = module.attributes.get(ACTIVATIONS)
    if not isinstance(found, DictionaryAttr):
        return {}
    names = {"planned": "", "live": "_live", "unshared": "_unshared"}
    return {
        f"activation_bytes{names[name]}": number.value.data
        for name, number in found.data.items()
        if isinstance(number, IntegerAttr)
    }


@dataclass(frozen=True)
class PlanMemoryPass(ModulePass):
    """Let activations take the memory of others that nobody touches any more.

    `order` says which: `data` those whose last use the flow of data already puts before the new
    value's first write, so that no task waits longer and no event is added; `program` all whose
    last use comes before it in the program, which may add waits; `none` leaves every value its own
    buffer. With a `budget` in bytes, `data` gives way to `program` where it needs more than that.
    Values share buffers of their element type, as row-major views of the first elements. States,
    weights, inputs and outputs keep their own memory, and so does an activation that is not written
    as a whole before it is read, is flagged, or is exchanged by ranks.
    """

    name = "mpk-plan-memory"

    order: str = "data"
    budget: int | None = None

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if self.order not in ("data", "program", "none"):
            raise MpkirError(
                f"there is no order {self.order!r} of memory",
                where=self.name,
                hint="use data, program or none",
            )
        families = families_of(op)
        values = values_of(families)
        plan = self.plan(families, values)
        op.attributes[ACTIVATIONS] = DictionaryAttr(
            {
                "unshared": IntegerAttr(sum(bytes_of(v.buffer) for v in values), i64),
                "live": IntegerAttr(peak_bytes(values), i64),
                "planned": IntegerAttr(_bytes(plan), i64),
            }
        )
        _apply([place for place in plan if len(place.values) > 1], op)

    def plan(self, families: Sequence[Family], values: Sequence[Value]) -> list[Place]:
        """Places for all values."""
        if self.order == "none":
            return [Place([value]) for value in values]
        if self.order == "data":
            free = _plan(values, DataOrder(precedence_of(families), values))
            if self.budget is None or _bytes(free) <= self.budget:
                return free
        return _plan(values, ProgramOrder())


def _plan(values: Sequence[Value], order: ProgramOrder | DataOrder) -> list[Place]:
    """Places for the values of each kind of memory: element type, and what else buffers say."""
    kinds: dict[tuple[Attribute, ...], list[Value]] = {}
    alone: list[Place] = []
    for value in values:
        alone_in_memory = value.buffer.flagged is not None or value.buffer.exchange is not None
        if not value.is_transient or alone_in_memory:
            # Whose elements carry the step that wrote them is written once a step; what others
            # write into is at the same place of all ranks.
            alone.append(Place([value]))
            continue
        buffer = value.buffer
        others = [name for name in sorted(buffer.properties) if name not in ("name", "initial")]
        key = (
            memref_type_of(buffer.result).get_element_type(),
            *(buffer.properties[name] for name in others),
        )
        kinds.setdefault(key, []).append(value)
    return alone + [place for each in kinds.values() for place in share(each, order)]


def _bytes(plan: Iterable[Place]) -> int:
    return sum(max(bytes_of(value.buffer) for value in place.values) for place in plan)


def _apply(places: Sequence[Place], module: ModuleOp) -> None:
    """Make a buffer for each place, and turn those of its values into views of it."""
    at = {op: number for number, op in enumerate(module.walk()) if isinstance(op, BufferOp)}
    names = {op.sym.data for op in at}
    for place in sorted(places, key=lambda place: place.values[0].first):
        buffers = sorted((value.buffer for value in place.values), key=at.__getitem__)
        element_type = memref_type_of(buffers[0].result).get_element_type()
        shared = BufferOp.create(
            properties={**buffers[0].properties, "name": StringAttr(_fresh(names))},
            result_types=[MemRefType(element_type, [place.size])],
        )
        Rewriter.insert_op(shared, InsertPoint.before(buffers[0]))
        for buffer in buffers:
            view = ViewOp(shared.result, memref_type_of(buffer.result).get_shape())
            view.location = buffer.location
            Rewriter.replace_op(buffer, view)


def _fresh(names: set[str]) -> str:
    """A name that no buffer has yet."""
    number = 0
    while (name := f"activations.{number}") in names:
        number += 1
    names.add(name)
    return name
