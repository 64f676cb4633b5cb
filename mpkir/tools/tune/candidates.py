"""Candidates of a search, and the file by which they travel: compiled on one machine, measured on
another, adopted on the first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mpkir.errors import MpkirError
from mpkir.tools.text_files import read_text, write_text
from mpkir.tuned import Choice
from mpkir.variant import Variant

SUFFIX = ".tune.json"
DECIDES = 0.01
"""Part of a step by which a candidate has to be faster than the default, measured; by its median,
which also has to lie below every run of the default."""
SIMULATED = 0.001
"""The same where nobody has measured."""


@dataclass(frozen=True)
class Candidate:
    """A variant that may be better than the default, which has no name."""

    variant: Variant
    simulated_us: float
    measured: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    """Its record, if it was measured and right."""

    @property
    def name(self) -> str:
        return self.variant.name


@dataclass(frozen=True)
class Tuning:
    """Candidates for one program; the first is the default."""

    model: str
    target: str
    workers: int
    batch: int
    shapes: tuple[str, ...]
    candidates: tuple[Candidate, ...]

    def choice(self) -> Choice | None:
        """The best candidate, if it beats the default: measured, or else simulated."""
        default, *others = self.candidates
        if default.measured:
            times = {c.name: float(c.measured["ms"]) for c in self.candidates if c.measured}
            least = min((1 - DECIDES) * times[""], float(default.measured["ms_min"]))
        else:
            times = {c.name: round(c.simulated_us / 1e3, 5) for c in self.candidates}
            least = (1 - SIMULATED) * times[""]
        best = min(
            (c for c in others if c.name in times), key=lambda c: times[c.name], default=None
        )
        if best is None or times[best.name] >= least:
            return None
        found: dict[str, Any] = {
            "by": "measurement" if default.measured else "simulation",
            "ms": times[best.name],
            "default_ms": times[default.name],
            "simulated_ms": round(best.simulated_us / 1e3, 5),
            "batch": self.batch,
        }
        kept = ("gpu", "positions", "runs", "commit", "versions", "date")
        found |= {key: best.measured[key] for key in kept if key in best.measured}
        return Choice(self.shapes, replace(best.variant, name="", tuned=True), found)

    def write(self, path: Path) -> None:
        """Write a file that `read_tuning` reads, whole or not at all."""
        data = {
            "model": self.model,
            "target": self.target,
            "workers": self.workers,
            "batch": self.batch,
            "shapes": list(self.shapes),
            "candidates": [
                {
                    "name": each.name,
                    "machine": dict(each.variant.machine),
                    "simulated_us": each.simulated_us,
                    "measured": dict(each.measured),
                }
                for each in self.candidates
            ],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(data, indent=1) + "\n")


def read_tuning(path: Path) -> Tuning:
    """What `Tuning.write` wrote. Raises MpkirError."""
    try:
        data = json.loads(read_text(path))
        candidates = tuple(
            Candidate(
                Variant(
                    each["name"],
                    tuple(
                        (name, tuple(value) if isinstance(value, list) else value)
                        for name, value in each["machine"].items()
                    ),
                    tuned=False,
                ),
                each["simulated_us"],
                each["measured"],
            )
            for each in data["candidates"]
        )
        return Tuning(
            data["model"],
            data["target"],
            data["workers"],
            data["batch"],
            tuple(data["shapes"]),
            candidates,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MpkirError(
            f"this holds no candidates ({error!r})",
            where=str(path),
            hint="give a file that `mpk tune --compile-to` or `--measured` wrote",
        ) from error
