"""The simulator's proposals: coordinate descent over the space, every program lowered and played.

Deterministic: the dimensions and their values come in a fixed order, and the simulator has no
chance in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from xdsl.dialects.builtin import ModuleOp

from mpkir.analysis.plan import plan_of
from mpkir.analysis.simulator import play
from mpkir.compiler import text_of
from mpkir.errors import MpkirError
from mpkir.machine import Machine
from mpkir.passes.raise_operators import RaiseOperatorsPass
from mpkir.passes.verify_schedule import VerifySchedulePass
from mpkir.pipeline import context, lower
from mpkir.tools.tune.candidates import Candidate
from mpkir.tools.tune.space import neighbours, space, value_of, variant_of
from mpkir.variant import Value, Variant

GAIN = 0.001
"""Part of a step by which another value has to be faster to be taken."""


def lowered(module: ModuleOp, machine: Machine, variant: Variant) -> ModuleOp | None:
    """A tensor-level module's program, not proven safe (that is done when it is compiled); None if
    there is none."""
    result = module.clone()
    unproven = replace(variant, without=(*variant.without, VerifySchedulePass.name))
    try:
        lower(result, variant.machine_of(machine), variant=unproven)
    except MpkirError:
        return None
    return result


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
        """What each variant has led to, maybe the program of another."""
        self.programs: dict[str, Candidate] = {}
        self.tried = 0
        # Done once here, it has little left to do in each candidate's lowering.
        self.raised = self.module.clone()
        RaiseOperatorsPass().apply(context(), self.raised)

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
            (each for each in self.programs.values() if each is not default),
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
        program = lowered(self.raised, self.machine, variant)
        if program is None:
            return None
        digest = sha256(text_of(program).encode()).hexdigest()
        if digest not in self.programs:
            played = play(plan_of(program, variant.machine_of(self.machine), self.position))
            self.programs[digest] = Candidate(variant, round(played.step, 2))
        found = self.seen[variant] = self.programs[digest]
        self.on_candidate(Candidate(variant, found.simulated_us), self.tried)
        return found


def proposals(found: Sequence[Candidate], count: int) -> tuple[Candidate, ...]:
    """The default and up to `count` others to measure: of those that change the same fields the
    fastest, in the order of their times; none that is slower than the default by a tenth."""
    default, *others = found
    best: dict[frozenset[str], Candidate] = {}
    for each in sorted(others, key=lambda c: (c.simulated_us, len(c.variant.machine), c.name)):
        if each.simulated_us <= 1.1 * default.simulated_us:
            best.setdefault(frozenset(field for field, _ in each.variant.machine), each)
    return (default, *list(best.values())[:count])
