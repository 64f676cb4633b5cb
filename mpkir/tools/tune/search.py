"""The simulator's proposals: coordinate descent over the space, every program lowered and played.

Deterministic: the dimensions and their values come in a fixed order, and the simulator has no
chance in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp

from mpkir.analysis.plan import plan_of
from mpkir.analysis.simulator import play
from mpkir.errors import MpkirError
from mpkir.machine import Machine
from mpkir.pipeline import lower
from mpkir.tools.tune.candidates import Candidate
from mpkir.tools.tune.space import neighbours, space, value_of, variant_of
from mpkir.variant import Value, Variant

GAIN = 0.001
"""Part of a step by which another value has to be faster to be taken."""


def simulated_us(
    module: ModuleOp, machine: Machine, variant: Variant, position: int
) -> float | None:
    """Microseconds of a step of a tensor-level module, compiled so; None if it cannot be."""
    try:
        changed = variant.machine_of(machine)
        lowered = module.clone()
        lower(lowered, changed, variant=variant)
        return play(plan_of(lowered, changed, position)).step
    except MpkirError:
        return None


@dataclass
class Search:
    """A search for one program."""

    module: ModuleOp
    machine: Machine
    position: int
    budget: int
    """Most programs to simulate."""
    on_candidate: Callable[[Candidate, int], None] = lambda candidate, count: None
    """Called after each, with how many there have been."""

    def __post_init__(self) -> None:
        self.seen: dict[Variant, Candidate] = {}
        self.tried = 0

    def run(self) -> tuple[Candidate, ...]:
        """All candidates that can be compiled, the default first, then the fastest first."""
        default = self._try(Variant(tuned=False))
        if default is None:
            raise MpkirError("the default cannot be compiled or simulated", where=self.machine.name)
        best = default
        held: dict[str, Value] = {}
        while self.tried < self.budget:
            before = best
            for dimension in space(self.machine):
                own = held.get(dimension.field, value_of(self.machine, dimension.field))
                for value in neighbours(dimension, own):
                    found = self._try(variant_of(self.machine, held | {dimension.field: value}))
                    if found is not None and found.simulated_us < best.simulated_us * (1 - GAIN):
                        best = found
                        own = value
                held[dimension.field] = own
            if best is before:
                break
        others = sorted(
            (each for each in self.seen.values() if each is not default),
            key=lambda each: (each.simulated_us, each.name),
        )
        return (default, *others)

    def candidate(self, variant: Variant) -> Candidate:
        """One that is asked for. MpkirError if it cannot be compiled."""
        found = self._try(variant, asked=True)
        if found is None:
            raise MpkirError(f"{variant.name} cannot be compiled", where=self.machine.name)
        return found

    def _try(self, variant: Variant, asked: bool = False) -> Candidate | None:
        if variant in self.seen:
            return self.seen[variant]
        if self.tried >= self.budget and not asked:
            return None
        self.tried += 1
        time = simulated_us(self.module, self.machine, variant, self.position)
        if time is None:
            return None
        self.seen[variant] = Candidate(variant, round(time, 2))
        self.on_candidate(self.seen[variant], self.tried)
        return self.seen[variant]


def proposals(found: Sequence[Candidate], count: int) -> tuple[Candidate, ...]:
    """The default and the `count` fastest others, of those that take the same time the one that
    changes least; none that is slower than the default by a tenth."""
    default, *others = found
    chosen: dict[float, Candidate] = {}
    for each in sorted(others, key=lambda c: (c.simulated_us, len(c.variant.machine), c.name)):
        if each.simulated_us <= 1.1 * default.simulated_us:
            chosen.setdefault(each.simulated_us, each)
    return (default, *list(chosen.values())[:count])
