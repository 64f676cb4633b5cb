"""Schedules broken in one place each: whatever the interpreter can make fail, verify-schedule must
reject.

    python benchmarks/mutations.py [--count 10000] [--family smollm2] [--json FILE] [--docs FILE]

Every schedule of a family (see schedules.py) is first checked unbroken: proven, and played. Then
`count` different mutants of them are made, each kind of mutation equally often as far as there are
that many. A mutant is proven by `mpk-verify-schedule` as it is compiled, and played by the
interpreter, which shares no analysis with it: for three steps, at random, consumers first, and with
each worker held back and run ahead as far as can be, until something fails: a race by vector
clocks, a value other than what the grids give one after another, a deadlock, an event that fires
early, a task after the stop, memory out of reach, a stage of the ring lost or overrun.

Ends with 1 if a mutant is missed (fails, but was accepted) or an unbroken schedule is rejected.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edits import Edits
from mutators import Mutators
from schedules import Scheduled, families, schedules
from xdsl.dialects.builtin import ArrayAttr, ModuleOp

from mpkir.analysis import dependence
from mpkir.backends.interpreter.atoms import Atoms
from mpkir.backends.interpreter.families import Family
from mpkir.backends.interpreter.orders import Order
from mpkir.backends.interpreter.symbolic import Shapes, SymbolicProgram
from mpkir.dialects import task
from mpkir.dialects.mesh import ranks_of
from mpkir.errors import MpkirError
from mpkir.passes.verify_schedule import VerifySchedulePass
from mpkir.pipeline import context
from mpkir.tools.bench import provenance

COLUMNS = ("made", "rejected", "failing", "missed", "strict", "equivalent", "other")
TRIES = 200
"""Attempts in a row that give no new mutant after which a kind counts as used up."""
FEW = 6
"""Workers that are held back or run ahead in one check, at most."""


class Player:
    """The interpreter on a module that is changed in place; keeps what a change leaves as it is."""

    def __init__(self, module: ModuleOp) -> None:
        self.module = module
        self.shapes = Shapes(module)
        self.families: dict[task.GridOp, tuple[ArrayAttr[Any], tuple[Any, ...], Family]] = {}
        self.atoms = Atoms(self.current(), ranks_of(module))

    def current(self) -> list[Family]:
        """The families as they are now."""
        return [self.family(op) for op in self.module.walk() if isinstance(op, task.GridOp)]

    def family(self, op: task.GridOp) -> Family:
        boxes, operands = op.boxes, tuple(op.operands)
        known = self.families.get(op)
        if known is None or known[0] != boxes or known[1] != operands:
            self.families[op] = known = (boxes, operands, Family(op, self.shapes))
        return known[2]

    def failure(self, seed: int, *, new_boxes: bool) -> str | None:
        """What fails in some order of execution, if anything."""
        families = self.current()
        atoms = Atoms(families, ranks_of(self.module)) if new_boxes else self.atoms
        try:
            program = SymbolicProgram(self.module, families, atoms)
            program.check(_orders(program, seed))
        except MpkirError as error:
            return str(error)
        return None


def _orders(program: SymbolicProgram, seed: int) -> Iterator[tuple[Order, int, bool]]:
    orders = program.orders([seed, seed + 1, seed + 2])
    general, special = orders[:4], orders[4:]
    yield from general
    rng = random.Random(seed)
    yield from rng.sample(special, min(2 * FEW, len(special)))


def remember_regions() -> None:
    """Let the proof find what it has derived before: which boxes tasks touch, and which overlap.

    Most families of a mutant are those of the schedule that it was made of. The functions are the
    proof's own; only their results for the same arguments are kept.
    """
    kept: dict[Any, Any] = {}

    def once(name: str, key: Callable[..., Any]) -> None:
        function = getattr(dependence, name)

        def remembered(*arguments: Any) -> Any:
            found = (name, *key(*arguments))
            if found not in kept:
                # The arguments too: as long as they live, no other object has their ids.
                kept[found] = (function(*arguments), arguments)
            return kept[found][0]

        setattr(dependence, name, remembered)

    once("boxes_of", lambda a, at: (a.box, a.shape, at.shape, *at[-1].tolist()))
    once("refine", lambda b, a, to: (id(b), a.shape, a.strides, a.offset, to))
    once("distinct", lambda b: (id(b),))
    once("overlapping", lambda *arrays: tuple(map(id, arrays)))


def rejection(module: ModuleOp) -> str | None:
    """What verify-schedule says against a module."""
    try:
        VerifySchedulePass().apply(context(), module)
    except MpkirError as error:
        return str(error)
    return None


@dataclass
class Tally:
    """What became of the mutants of a family."""

    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    missed: list[dict[str, str]] = field(default_factory=list)
    strict: Counter[str] = field(default_factory=Counter)
    """First words of the reasons for rejections without a failure."""
    seconds: float = 0.0

    def add(self, kind: str, name: str, edits: Edits, found: str | None, why: str | None) -> None:
        counts = self.kinds.setdefault(kind, Counter())
        counts["made"] += 1
        counts["rejected"] += why is not None
        counts["failing"] += found is not None
        if why is None and found is not None:
            counts["missed"] += 1
            self.missed.append({"kind": kind, "schedule": name, "what": edits.text, "how": found})
            print(f"missed: {self.missed[-1]}", file=sys.stderr, flush=True)
        if why is not None and found is None:
            counts["strict"] += 1
            self.strict[_reason(why)] += 1
        if why is None and found is None:
            counts["other" if edits.touches_buffers else "equivalent"] += 1


def _reason(why: str) -> str:
    """What kind of rejection it is."""
    marks = {
        "the same elements": "no order between tasks that conflict",
        "may signal": "a signal of the next step may come early",
        "expects": "arrivals are not the signals",
        "deadlock": "a task waits for ever",
        "no task writes": "a read of what is not written",
        "writes only later": "a read of what is not written",
        "which nobody writes": "a read of what is not written",
        "nobody sees a flag": "a flag that releases dynamic tasks",
        "which is flagged": "a tag that does not tell writes apart",
        "must not run": "a worker that may begin a step too early",
        "by flag": "a flag that does not tell writes apart",
        "needs the hand-off": "a hand-off that does not reach",
        "may be on another": "a dynamic task that any rank may run",
        "hands over locally": "a hand-off that does not reach",
        "stream": "a stage of the ring",
        "a stage of": "a stage of the ring",
        "in place": "places of a list with a gap",
        "stopped the loop": "a task that may run after the stop",
        "keeps what the host wrote": "a write to a constant",
        "before its first element": "an element before the first",
    }
    return next((text for mark, text in marks.items() if mark in why), why[:60])


def run_family(family: str, count: int, seed: int) -> tuple[Tally, list[str], int]:
    """Break the schedules of a family `count` times: the tally, unbroken ones that do not pass, and
    how many there are."""
    tally, wrong = Tally(), list[str]()
    begin = time.perf_counter()
    given = schedules(family)
    bases: list[tuple[Scheduled, Player, Mutators]] = []
    for each in given:
        player = Player(each.module)
        why = rejection(each.module) or player.failure(seed, new_boxes=False)
        if why is not None:
            wrong.append(f"{each.name}: {why}")
        bases.append((each, player, Mutators(each.module)))
    rng, seen, tries = random.Random(seed), set[tuple[str, str, str]](), Counter[str]()
    kinds = list(bases[0][2].kinds)
    made = 0
    while made < count and kinds:
        kind = kinds[made % len(kinds)]
        base, player, mutators = rng.choice(bases)
        tries[kind] += 1
        if tries[kind] > TRIES:
            kinds.remove(kind)
            continue
        edits = mutators.mutate(kind, rng)
        if edits is None:
            continue
        key = (kind, base.name, edits.text)
        if key not in seen:
            seen.add(key)
            tries[kind] = 0
            why = rejection(base.module)
            found = player.failure(seed + made, new_boxes=edits.touches_buffers)
            tally.add(kind, base.name, edits, found, why)
            made += 1
            if made % 500 == 0:
                pace = (time.perf_counter() - begin) / made
                print(f"{family}: {made}, {1e3 * pace:.0f} ms each", file=sys.stderr, flush=True)
        edits.undo()
    tally.seconds = time.perf_counter() - begin
    return tally, wrong, len(bases)


def record(family: str, tally: Tally, schedules_checked: int, count: int) -> dict[str, Any]:
    """A family's results as they are saved."""
    total = Counter[str]()
    for counts in tally.kinds.values():
        total.update(counts)
    return {
        "benchmark": "mutations",
        "system": "mpkir-verify-schedule",
        "model": family,
        "gpu": "none",
        "gpus": 0,
        "batch": 1,
        "graph": families()[family],
        "schedules": schedules_checked,
        "asked": count,
        "seconds": round(tally.seconds, 1),
        "total": {name: total[name] for name in COLUMNS},
        "kinds": {
            kind: {name: counts[name] for name in COLUMNS} for kind, counts in tally.kinds.items()
        },
        "strict_reasons": dict(tally.strict.most_common()),
        "missed": tally.missed,
    }


def table(records: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines: list[str] = []
    for each in records:
        total = each["total"]
        accepted = total["made"] - total["rejected"]
        lines += [
            f"### {each['model']}: {each['graph']}",
            "",
            f"{each['schedules']} unbroken schedules, all accepted; {total['made']} mutants.",
            "",
            "| mutation | made | rejected | failing | missed | rejected, no failure found |"
            " accepted, equivalent | accepted, another program |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for kind, counts in {**each["kinds"], "all": total}.items():
            cells = " | ".join(str(counts[name]) for name in COLUMNS)
            lines.append(f"| {kind} | {cells} |")
        share = total["equivalent"] / accepted if accepted else 0.0
        lines += [
            "",
            f"Of {accepted} accepted mutants {total['equivalent']} ({share:.0%}) are equivalent. "
            "Rejected though nothing failed, by reason:",
            "",
            *(f"* {reason}: {number}" for reason, number in each["strict_reasons"].items()),
            "",
        ]
    return "\n".join(lines)


MARK = "<!-- mutations -->"


def write_docs(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Put the table behind the mark in a document."""
    before, mark, _ = path.read_text(encoding="utf-8").partition(MARK)
    if not mark:
        raise SystemExit(f"{path} has no line {MARK}")
    path.write_text(f"{before}{MARK}\n\n{table(records)}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--count", type=int, default=10000, help="mutants of each family")
    parser.add_argument("--family", choices=list(families()), action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where results are saved")
    parser.add_argument("--docs", type=Path, help="a document whose table is renewed")
    options = parser.parse_args()
    records: list[dict[str, Any]] = []
    failed = False
    remember_regions()
    facts = provenance()
    for family in options.family or list(families()):
        tally, wrong, checked = run_family(family, options.count, options.seed)
        records.append(record(family, tally, checked, options.count))
        for text in wrong:
            print(f"unbroken, but does not pass: {text}", file=sys.stderr)
        failed = failed or bool(wrong or tally.missed)
        if options.json is not None:
            saved = [{**each, **facts} for each in records]
            options.json.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
    print(table(records))
    if options.docs is not None:
        write_docs(options.docs, records)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
