"""Where a program's repeated runs begin to differ: the first family whose result is not the same.

    python benchmarks/find_difference.py ARTIFACT [ARTIFACT ..] --json found.json

Needs no compiler. Of each artifact (random weights, the same for all) the same steps run many
times from the same state, and every buffer that a step writes is read back. What most runs found
counts as right. A run that differs is traced to where it began: the first position and layer whose
keys or values differ if that was before the last step, else the first family, in the order of the
program, whose result differs in the last step. Results of different artifacts are compared as
well, so one with `launch=per-operator` says whether what most runs found is right.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from mpkir.errors import MpkirError
from mpkir.runtime.artifact import load_artifact
from mpkir.runtime.buffers import BRIEF_MARKS, values_of, words_of
from mpkir.runtime.origins import origins_of
from mpkir.runtime.program import Program
from mpkir.runtime.table import FamilyField, TaskField
from mpkir.tools.bench.caches import fill_caches
from mpkir.tools.bench.models import model_source, weights_of
from mpkir.tools.bench.records import caches_of, device_name

SHOWN = 4
"""Elements of a difference that are written out."""
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass
class Difference:
    """What one run found otherwise than most, where it began."""

    run: int
    position: int
    """Of the step; -1: the run did as many steps as were asked for only in part."""
    family: str
    """Whose result it is, or the cache's name where it began before the last step."""
    buffer: str
    elements: int
    of: int
    rows: list[int]
    """Sequences: places of the first dimension that has more than one."""
    columns: list[int]
    """First and last place in what is behind them."""
    tasks: list[int] = field(default_factory=list[int])
    """Of a product: those that wrote it; [] if that is not known."""
    workers: list[int] = field(default_factory=list[int])
    examples: list[list[float]] = field(default_factory=list[list[float]])
    """[place behind the row, right, found] each."""
    stale: int = 0
    """How many of the elements do not carry the last step's tag; of flagged buffers."""
    also: list[str] = field(default_factory=list[str])
    """The next families that differ."""


class Subject:
    """A program that runs the same steps again and again."""

    def __init__(self, path: Path, weights: dict[str, torch.Tensor], device: torch.device) -> None:
        self.path = path
        self.program = Program(load_artifact(path), weights=weights, device=device)
        manifest = self.program.manifest
        if manifest.language is None:
            raise MpkirError("this program is not a language model", where=str(path))
        self.roles = manifest.language
        self.batch = manifest.language.batch
        self.buffers = {buffer.name: buffer for buffer in manifest.buffers}
        self.caches = [buffer.name for buffer in caches_of(manifest)]
        self.writers = self._writers()
        self._rows = _rows_of_bodies(path)

    def _writers(self) -> dict[str, int]:
        """The family that writes each buffer but states, in the order of the program."""
        table, manifest = self.program.table, self.program.manifest
        origins = origins_of(self.path, manifest)
        if not origins:
            raise MpkirError("the artifact has no families.json", where=str(self.path))
        found: dict[str, int] = {}
        for family, origin in enumerate(origins):
            for buffer in table.operands(family)[origin.reads :]:
                name = manifest.buffers[buffer].name
                if manifest.buffers[buffer].kind in ("scratch", "output"):
                    found.setdefault(name, family)
        return found

    def prepare(self, position: int) -> None:
        """Keep the state that every run begins with."""
        fill_caches(self.program, position)
        generator = torch.Generator().manual_seed(0)
        prompt = torch.randint(
            self.roles.vocabulary, (self.batch, position + 1), generator=generator
        )
        tokens = self.program.buffer(self.roles.tokens)
        tokens.fill_(-1)
        tokens.view(self.batch, -1)[:, : position + 1] = prompt.to(tokens.device)
        self._tokens = tokens.clone()

    def run(self, position: int, steps: int) -> int:
        """Again from that state; the steps done. Rows of caches behind it are what they were."""
        self.program.buffer(self.roles.tokens).copy_(self._tokens)
        return self.program.run(position, steps)

    def memory(self, name: str) -> torch.Tensor:
        """A buffer's words as they are."""
        return self.program._buffers[name]  # pyright: ignore[reportPrivateUsage]

    def bits(self, name: str) -> torch.Tensor:
        """A buffer's values as integers of their size, without tags."""
        values = values_of(self.buffers[name], self.memory(name)).contiguous()
        return values.view(INTEGERS[values.element_size()])

    def watched(self) -> list[str]:
        """Everything that steps write."""
        return [self.roles.tokens, *self.caches, *self.writers]

    def sums(self) -> dict[str, int]:
        """A checksum of each; integers, so the order of adding does not matter."""
        return {name: _checksum(self.bits(name)) for name in self.watched()}

    def stale(self, name: str, where: torch.Tensor) -> int:
        """How many of those elements do not carry the tag that most do."""
        buffer = self.buffers[name]
        if not buffer.flagged or not where.any():
            return 0
        words = words_of(buffer, self.memory(name))
        words = words[0] if buffer.planes else words
        if buffer.brief:
            tags = words & BRIEF_MARKS[words.dtype]
        else:
            tags = words >> 32 if words.dtype == torch.int64 else words & 0xFFFF
        return int((tags[where] != tags.flatten().cpu().mode().values.item()).sum())

    def tasks_of(self, family: int, columns: torch.Tensor) -> tuple[list[int], list[int]]:
        """Tasks of a product that write those columns, and their workers."""
        table = self.program.table
        rows = self._rows.get(int(table.families[family, FamilyField.BODY]))
        if rows is None:
            return [], []
        tasks = sorted({int(column) // rows for column in columns.unique().tolist()})
        workers: list[int] = []
        for index in tasks[:32]:
            mine = (table.tasks[:, TaskField.FAMILY] == family) & (
                table.tasks[:, TaskField.INDEX] == index
            )
            place = int(mine.argmax())
            workers.append(int((table.workers[1:] <= place).sum()))
        return tasks[:32], workers


def _rows_of_bodies(path: Path) -> dict[int, int]:
    """Features of a task, by body, of products, from the kernel's text; {} without one."""
    source = path / "kernel.cu"
    if not source.is_file():
        return {}
    text = source.read_text(encoding="utf-8")
    found: dict[int, int] = {}
    for part in re.split(r"\n// ", text)[1:]:
        body, rows = re.search(r"struct body_(\d+)", part), re.search(r"int ROWS = (\d+)", part)
        if "Linear" in part.partition(":")[0] and body and rows:
            found[int(body[1])] = int(rows[1])
    return found


def _checksum(bits: torch.Tensor) -> int:
    """Of integers, by place; wraps."""
    flat = bits.reshape(-1).to(torch.int64)
    factors = torch.arange(flat.numel(), device=flat.device) * 2654435761 | 1
    return int((flat * factors).sum())


def _parts(bits: torch.Tensor) -> torch.Tensor:
    """A buffer as [rows, columns]: rows are sequences, where there are several."""
    shape = bits.shape
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return bits.reshape(shape[0], -1) if len(shape) > 1 else bits.reshape(1, -1)


def _describe(
    subject: Subject,
    name: str,
    right: torch.Tensor,
    run: int,
    position: int,
    family: str,
    number: int | None,
) -> Difference:
    found = subject.bits(name)
    differs = found != right
    parts = _parts(differs)
    places = parts.nonzero()
    dtype = values_of(subject.buffers[name], subject.memory(name)).dtype
    a, b = _parts(right), _parts(found)
    examples: list[list[float]] = []
    for row, column in places[:SHOWN].tolist():
        pair = [t[row, column].reshape(1).view(dtype).item() for t in (a, b)]
        examples.append([column, *map(float, pair)])
    tasks, workers = ([], []) if number is None else subject.tasks_of(number, places[:, 1])
    return Difference(
        run,
        position,
        family,
        name,
        int(differs.sum()),
        differs.numel(),
        sorted(set(places[:, 0].tolist())),
        [int(places[:, 1].min()), int(places[:, 1].max())],
        tasks,
        workers,
        examples,
        subject.stale(name, differs),
    )


def _earlier(
    subject: Subject, right: dict[str, torch.Tensor], run: int, first: int, steps: int
) -> Difference | None:
    """Where a run began to differ before its last step, by the rows that each step left in the
    caches; None: it did not."""
    best: tuple[int, int] | None = None
    for order, name in enumerate(subject.caches):
        differs = (subject.bits(name) != right[name]).any(-1)  # [batch, heads, positions]
        behind = differs.any(0).any(0).nonzero().flatten()
        behind = behind[(behind >= first) & (behind < first + steps)]
        if len(behind):
            best = min(best or (first + steps, 0), (int(behind[0]), order))
    if best is None or best[0] >= first + steps - 1:
        return None
    position, order = best
    name = subject.caches[order]
    at = (slice(None), slice(None), position)
    differs = subject.bits(name)[at] != right[name][at]  # [batch, heads, size]
    places = _parts(differs).nonzero()
    return Difference(
        run,
        position,
        f"cache {name}",
        name,
        int(differs.sum()),
        differs.numel(),
        sorted(set(places[:, 0].tolist())),
        [int(places[:, 1].min()), int(places[:, 1].max())],
    )


def _late(
    subject: Subject, right: dict[str, torch.Tensor], run: int, position: int
) -> Difference | None:
    """The first family whose result differs in the last step."""
    table = subject.program.table
    ordered = sorted(subject.writers.items(), key=lambda item: item[1])
    wrong = [
        (name, family)
        for name, family in ordered
        if not torch.equal(subject.bits(name), right[name])
    ]
    if not wrong:
        return None
    name, family = wrong[0]
    label = table.names.families[family]
    found = _describe(subject, name, right[name], run, position, label, family)
    found.also = [each for each, _ in wrong[1:6]]
    return found


def examine(
    subject: Subject, position: int, steps: int, runs: int
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Run the same steps `runs` times to see what most find, and as often again to compare with it.

    A report, and every watched buffer as most runs left it.
    """
    subject.prepare(position)
    seen: Counter[tuple[int, ...]] = Counter()
    names = subject.watched()
    for _ in range(runs):
        done = subject.run(position, steps)
        if done != steps:
            raise MpkirError(f"{done} of {steps} steps were run", where=str(subject.path))
        sums = subject.sums()
        seen[tuple(sums[name] for name in names)] += 1
    usual, count = seen.most_common(1)[0]
    right: dict[str, torch.Tensor] = {}
    for _ in range(8 * runs):
        subject.run(position, steps)
        sums = subject.sums()
        right = {name: subject.bits(name).clone() for name in names}
        if count == 1 or tuple(sums[name] for name in names) == usual:
            break
    differences: list[Difference] = []
    for run in range(runs):
        subject.run(position, steps)
        found = _earlier(subject, right, run, position, steps) if steps > 1 else None
        found = found or _late(subject, right, run, position + steps - 1)
        if found is not None:
            differences.append(found)
    report = {
        "artifact": subject.path.name,
        "launch": subject.program.manifest.target.launch,
        "batch": subject.batch,
        "position": position,
        "steps": steps,
        "runs": runs,
        "kinds_of_results": len(seen),
        "usual_result_share": round(count / runs, 3),
        "runs_that_differ": len(differences),
        "begins": dict(Counter(each.family for each in differences).most_common(12)),
        "differences": [asdict(each) for each in differences],
    }
    return report, right


def _beside(
    subject: Subject, mine: dict[str, torch.Tensor], other: dict[str, torch.Tensor]
) -> list[str]:
    """Buffers, in the order of the program, that another program fills otherwise."""
    ordered = sorted(subject.writers, key=lambda name: subject.writers[name])
    return [
        name
        for name in ordered
        if name in other
        and mine[name].shape == other[name].shape
        and mine[name].dtype == other[name].dtype
        and not torch.equal(mine[name], other[name])
    ]


def _print(report: dict[str, Any]) -> None:
    print(
        f"{report['artifact']} ({report['launch']}), position {report['position']}, "
        f"{report['steps']} steps: {report['runs_that_differ']} of {report['runs']} runs differ, "
        f"{report['kinds_of_results']} kinds of results",
        flush=True,
    )
    for name, count in report["begins"].items():
        print(f"  {count:4}  {name}")
    for each in report["differences"][:6]:
        print(
            f"    run {each['run']}: {each['family']} at {each['position']}, {each['elements']} of "
            f"{each['of']} elements, rows {each['rows']}, columns {each['columns']}, tasks "
            f"{each['tasks'][:8]}, workers {each['workers'][:8]}, old tags {each['stale']}, "
            f"{each['examples'][:2]}, then {each['also'][:3]}"
        )
    if report.get("beside"):
        print(f"  beside {report['other']}: {report['beside'][:6]} differ", flush=True)


def numbers(text: str) -> list[int]:
    """ "1,8" as a list."""
    return [int(part) for part in text.split(",")]


def find(paths: Sequence[Path], given: argparse.Namespace) -> list[dict[str, Any]]:
    """Examine each program at each position and number of steps."""
    first = load_artifact(paths[0])
    kind = first.manifest.target.kind
    device = torch.device("cuda", 0) if kind == "cuda" else torch.device("cpu")
    model = model_source(str(paths[0])).build(device)
    weights = weights_of(model)
    reports: list[dict[str, Any]] = []
    usual: dict[tuple[int, int, int], tuple[str, dict[str, torch.Tensor]]] = {}
    for path in paths:
        try:
            subject = Subject(path, weights, device)
            for position in given.position:
                for steps in given.steps:
                    report, right = examine(subject, position, steps, given.runs)
                    case = (subject.batch, position, steps)
                    if case in usual:
                        other, buffers = usual[case]
                        report |= {"other": other, "beside": _beside(subject, right, buffers)}
                    elif not given.light:
                        usual[case] = (path.name, {name: right[name] for name in subject.writers})
                    report["gpu"] = device_name(device)
                    reports.append(report)
                    _print(report)
        except MpkirError as error:
            print(f"{path.name}: {error}", flush=True)
            reports.append({"artifact": path.name, "error": str(error)})
        subject = None
        if given.json is not None:
            given.json.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return reports


def main() -> None:
    """Examine the artifacts that are given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifacts", nargs="+", type=Path)
    parser.add_argument("--position", type=numbers, default=[32], help="of the first step: 0,32")
    parser.add_argument("--steps", type=numbers, default=[1, 16], help="of a run: 1,16")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--light", action="store_true", help="programs are not compared")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    try:
        reports = find(given.artifacts, given)
    except MpkirError as error:
        sys.exit(f"find_difference: error: {error}")
    differ = sum(report.get("runs_that_differ", 1) > 0 for report in reports)
    print(f"{differ} of {len(reports)} examinations found a difference or an error")


if __name__ == "__main__":
    main()
