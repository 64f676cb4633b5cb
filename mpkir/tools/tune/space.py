"""What `mpk tune` may choose: numbers of the machine model, each with the values to try."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mpkir.errors import MpkirError
from mpkir.machine import Machine
from mpkir.variant import Value, Variant


@dataclass(frozen=True)
class Dimension:
    """A field of the machine model."""

    field: str
    values: tuple[Value, ...]
    on_gpu: bool = False
    """Whether it means something on a GPU only."""

    @property
    def name(self) -> str:
        """Its last part, as candidates are called by it."""
        return self.field.rpartition(".")[2]


DIMENSIONS = (
    Dimension("tiles.max_rows", (8, 16, 32, 64, 128)),
    Dimension("tiles.row_multiple", (8, 16, 32), on_gpu=True),
    Dimension("handoffs", (("counter",), ("counter", "flag")), on_gpu=True),
    Dimension("tiles.attention_chunk", (16, 32, 64, 128, 256, 512)),
    Dimension("tiles.attention_bytes", (0, 1 << 14, 1 << 15, 1 << 16), on_gpu=True),
    Dimension("ring.in_flight", (1, 2, 3, 4, 6), on_gpu=True),
    Dimension("ring.slots", (4, 6, 8, 10, 12), on_gpu=True),
    Dimension("ring.ease", (5, 7, 9), on_gpu=True),
    Dimension("ring.exposed_us", (0.6, 0.9, 1.2), on_gpu=True),
    Dimension("tiles.joined_bytes", (0, 1 << 20, 1 << 23), on_gpu=True),
    Dimension("tiles.argmax_chunks", (8, 32, 66, 132, 264)),
    Dimension("tiles.task_overhead", (0, 8192, 32768)),
)


def space(machine: Machine) -> tuple[Dimension, ...]:
    """What can be chosen for a machine."""
    return tuple(each for each in DIMENSIONS if machine.kind == "cuda" or not each.on_gpu)


def value_of(machine: Machine, field: str) -> Value:
    """A field of the machine model: "ring.slots"."""
    found: object = machine
    for name in field.split("."):
        found = getattr(found, name)
    assert isinstance(found, int | float | bool | str | tuple)
    return found


def variant_of(machine: Machine, changes: dict[str, Value]) -> Variant:
    """The default with these fields, those that are the machine's own left out; never with what was
    tuned before."""
    other = tuple(
        (each.field, changes[each.field])
        for each in DIMENSIONS
        if each.field in changes and changes[each.field] != value_of(machine, each.field)
    )
    return Variant(name_of(other), other, tuned=False)


def name_of(changes: Sequence[tuple[str, Value]]) -> str:
    """What a candidate is called: "max_rows=16,in_flight=3"; "" for the default."""
    return ",".join(f"{field.rpartition('.')[2]}={_text(value)}" for field, value in changes)


def _text(value: Value) -> str:
    return "-".join(value) if isinstance(value, tuple) else str(value)


def changes_of(machine: Machine, text: str) -> dict[str, Value]:
    """The fields that "in_flight=3,handoffs=counter" sets. Raises MpkirError."""
    known = {each.name: each for each in space(machine)}
    changes: dict[str, Value] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if name not in known or not equals:
            raise MpkirError(
                f"{part!r} is no choice for {machine.name}",
                hint=f"write NAME=VALUE with one of {', '.join(known)}",
            )
        wanted = {_text(each): each for each in known[name].values}
        if not value.isdecimal() and value not in wanted:
            raise MpkirError(f"{name} cannot be {value!r}", hint=f"try {', '.join(wanted)}")
        changes[known[name].field] = wanted[value] if value in wanted else int(value)
    return changes


def neighbours(dimension: Dimension, held: Value) -> Iterator[Value]:
    """The other values of a dimension."""
    yield from (value for value in dimension.values if value != held)
