"""What a compilation does otherwise than by default: other numbers of the machine model, passes
left out or with other options, macros for the kernel. Ablations and tuned choices are said in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mpkir.errors import MpkirError
from mpkir.machine import Machine, launched

T = TypeVar("T")
Value = int | float | bool | str | tuple[str, ...]


@dataclass(frozen=True)
class Variant:
    """Changes to the default compilation; none of them is the default.

    machine   ("ring.in_flight", 4): a field of the machine model, or of a part of it
    options   ("mpk-schedule-tasks", "policy", "list"): an option of a pass of the pipeline
    without   passes of the pipeline to leave out
    macros    defined in the kernel's source: "MPK_CHECKED", or with a value, "MPK_TRACE 100"
    """

    name: str = ""
    """What measurements call it."""
    machine: tuple[tuple[str, Value], ...] = ()
    options: tuple[tuple[str, str, Value], ...] = ()
    without: tuple[str, ...] = ()
    macros: tuple[str, ...] = ()
    tuned: bool = True
    """Whether what was tuned for the same shapes is taken where it says nothing itself."""

    def __bool__(self) -> bool:
        return bool(self.machine or self.options or self.without or self.macros)

    def over(self, other: Variant) -> Variant:
        """Both, this one where they differ."""
        return Variant(
            self.name or other.name,
            tuple((dict(other.machine) | dict(self.machine)).items()),
            (*other.options, *self.options),
            (*other.without, *self.without),
            (*other.macros, *self.macros),
            self.tuned and other.tuned,
        )

    def machine_of(self, machine: Machine) -> Machine:
        """The machine with its other numbers. MpkirError for a field or a launch that it has
        not."""
        for path, value in self.machine:
            machine = _with_field(machine, path.split("."), value, path)
        return launched(machine, machine.launch)

    def passes_of(self, passes: Iterable[T]) -> tuple[T, ...]:
        """The passes with their other options, without those left out. MpkirError for a pass or an
        option that is not there."""
        found = list(passes)
        names = [getattr(each, "name") for each in found]
        for name in (*self.without, *(name for name, _, _ in self.options)):
            if name not in names:
                raise MpkirError(
                    f"{self.name or 'a variant'} changes {name!r}, which is no pass of the "
                    "default pipeline for this target",
                    hint=f"its passes are {', '.join(names)}",
                )
        for name, option, value in self.options:
            found = [
                _with_option(each, option, value) if getattr(each, "name") == name else each
                for each in found
            ]
        return tuple(each for each in found if getattr(each, "name") not in self.without)

    def source_of(self, source: str) -> str:
        """A kernel's source with the macros before it."""
        return "".join(f"#define {macro}\n" for macro in self.macros) + source


DEFAULT = Variant()


def _with_field(whole: Any, path: list[str], value: Value, where: str) -> Any:
    name, *rest = path
    if not dataclasses.is_dataclass(whole) or name not in {
        each.name for each in dataclasses.fields(whole)
    }:
        raise MpkirError(f"a machine model has no {where!r}")
    changed = _with_field(getattr(whole, name), rest, value, where) if rest else value
    return replace(whole, **{name: changed})  # pyright: ignore[reportArgumentType]


def _with_option(stage: Any, option: str, value: Value) -> Any:
    if option not in {each.name for each in dataclasses.fields(stage)}:
        raise MpkirError(f"{stage.name} has no option {option!r}")
    return replace(stage, **{option: value})
