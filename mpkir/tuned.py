"""Choices that `mpk tune` has found better than the default, by machine and by shapes of the step.

They lie in files of one machine each: those that mpkir ships beside its machine models, and the
user's own in the cache directory, which come before them. A compilation of the same shapes takes
them, unless its variant says that it does not want to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from mpkir.errors import MpkirError
from mpkir.machine import Machine
from mpkir.runtime.cache import cache_directory
from mpkir.variant import Variant


@dataclass(frozen=True)
class Choice:
    """What was found best for some shapes."""

    shapes: tuple[str, ...]
    variant: Variant
    found: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """How: "by" ("measurement" or "simulation"), "ms" and "default_ms" of a step, date, .."""

    def to_json(self) -> dict[str, Any]:
        return {
            "shapes": list(self.shapes),
            "machine": {name: value for name, value in self.variant.machine},
            "found": dict(self.found),
        }

    @staticmethod
    def from_json(value: Any, where: str) -> Choice:
        """MpkirError for what `to_json` does not write."""
        try:
            machine = tuple(
                (str(name), tuple(each) if isinstance(each, list) else each)
                for name, each in value["machine"].items()
            )
            shapes = tuple(map(str, value["shapes"]))
            return Choice(shapes, Variant("", machine), dict(value["found"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise MpkirError(
                f"this is no tuned choice ({error!r})",
                where=where,
                hint="delete the file, or tune again",
            ) from error


def digest_of(shapes: Sequence[str], workers: int) -> str:
    """What a choice is kept under."""
    text = "\n".join([f"{workers} workers", *shapes])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def shipped_file(machine: str) -> Path:
    """Of choices that come with mpkir."""
    return Path(str(files("mpkir.machines"))) / "tuned" / f"{machine}.json"


def own_file(machine: str) -> Path:
    """Of the user's choices."""
    return cache_directory() / "tuned" / f"{machine}.json"


def read_choices(path: Path) -> dict[str, Choice]:
    """By digest; none if there is no such file. MpkirError if it is damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        entries = dict(data.items())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise MpkirError(
            f"the tuned choices cannot be read ({error})",
            where=str(path),
            hint="delete the file, or tune again",
        ) from error
    return {digest: Choice.from_json(entry, str(path)) for digest, entry in entries.items()}


def choices(machine: str) -> dict[str, Choice]:
    """All for a machine by digest, the user's before those shipped. MpkirError."""
    if machine.endswith(".json"):
        return {}
    return read_choices(shipped_file(machine)) | read_choices(own_file(machine))


def with_tuned(variant: Variant, machine: Machine, shapes: Sequence[str]) -> Variant:
    """The variant over what was tuned for these shapes, if it wants that and there is something.

    Choices are for one kernel that stays; another launch takes none.
    """
    if not variant.tuned or variant.machine_of(machine).launch != "persistent":
        return variant
    choice = choices(machine.name).get(digest_of(shapes, machine.workers))
    return variant if choice is None else variant.over(replace(choice.variant, name=""))


def text_of(entries: Mapping[str, Choice]) -> str:
    """A file's content."""
    found = {digest: entries[digest].to_json() for digest in sorted(entries)}
    return json.dumps(found, indent=1) + "\n"
