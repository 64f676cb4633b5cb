"""`mpk inspect`: what an artifact or a task graph holds, as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path

from rich.table import Table as RichTable
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from mpkir.analysis.families import families_of
from mpkir.analysis.statistics import GraphStatistics, statistics_of
from mpkir.errors import MpkirError
from mpkir.machine import machine_named
from mpkir.passes.lower_dependencies import LowerDependenciesPass
from mpkir.passes.partition_tiles import PartitionTilesPass
from mpkir.passes.schedule_tasks import ScheduleTasksPass
from mpkir.pipeline import lower
from mpkir.runtime.artifact import load_artifact
from mpkir.runtime.manifest import MANIFEST, Manifest
from mpkir.runtime.table import Table, TaskField
from mpkir.tools.sources import module_of


def describe(path: Path) -> Iterator[RichTable]:
    """Tables of an artifact's facts, buffers by kind, and families by body."""
    artifact = load_artifact(path)
    yield _facts(artifact.manifest, artifact.table)
    yield _memory(artifact.manifest)
    yield _bodies(artifact.manifest, artifact.table)


def describe_graph(
    source: str, target: str, workers: int | None = None, capacity: int | None = None
) -> Iterator[RichTable]:
    """Statistics of a source's task graph, at each level on its way down.

    IR that has tasks already is counted as it is, at its own level.
    """
    if (Path(source) / MANIFEST).is_file():
        raise MpkirError(
            "an artifact no longer says which regions its tasks touch",
            where=source,
            hint="name what it was compiled from, or IR that `mpk compile --dump-dir` wrote",
        )
    module = module_of(source, capacity).module
    if families_of(module):
        yield _statistics(source, {"here": statistics_of(module)})
        return
    found: dict[str, GraphStatistics] = {}
    machine = machine_named(target, workers=workers)
    shown = (PartitionTilesPass, LowerDependenciesPass, ScheduleTasksPass)

    def count(stage: ModulePass, at: ModuleOp) -> None:
        if isinstance(stage, shown):
            found[stage.name.removeprefix("mpk-")] = statistics_of(at)

    lower(module, machine, after_pass=count)
    yield _statistics(f"{source}, {machine.name} with {machine.workers} workers", found)


def _statistics(title: str, columns: Mapping[str, GraphStatistics]) -> RichTable:
    """One column of numbers for each of some levels; names of rows come from the fullest."""
    result = RichTable("after", title=title)
    rows: dict[str, list[str]] = {}
    for number, statistics in enumerate(columns.values()):
        for name, value in statistics.rows():
            rows.setdefault(name, [""] * len(columns))[number] = value
    for name in columns:
        result.add_column(name, justify="right")
    for name, values in rows.items():
        result.add_row(name, *values)
    return result


def _facts(manifest: Manifest, table: Table) -> RichTable:
    target = manifest.target
    result = RichTable("what", "value", title="program")
    waits = int((table.tasks[:, TaskField.WAIT_EVENT] >= 0).sum())
    signals = int((table.tasks[:, TaskField.SIGNAL_EVENT] >= 0).sum())
    rows: dict[str, object] = {
        "target": f"{target.name} ({target.arch})",
        "workers": target.workers,
        "tasks a step": len(table.tasks),
        "of these given out at run time": table.dynamic_count,
        "families": len(manifest.families),
        "bodies": len(manifest.bodies),
        "events": len(manifest.events),
        "waits and signals a step": f"{waits} and {signals}",
        "tokens a step": manifest.tokens_per_step,
        "written by mpkir": manifest.mpkir_version,
        **manifest.info,
    }
    if manifest.ranks > 1:
        exchanged = sum(buffer.exchange for buffer in manifest.buffers)
        rows["ranks"] = manifest.ranks
        rows["exchanged buffers, events of peers"] = f"{exchanged}, {manifest.peer_events}"
    if manifest.language is not None:
        rows["capacity"] = manifest.language.capacity
        rows["sequences at once"] = manifest.language.batch
        rows["vocabulary"] = manifest.language.vocabulary
    for name, value in rows.items():
        result.add_row(name, str(value))
    return result


def activations(manifest: Manifest) -> str:
    """One line on the memory of what a step computes on the way."""
    count = sum(buffer.kind == "scratch" for buffer in manifest.buffers)
    size, unshared = (manifest.info.get(f"activation_bytes{what}", 0) for what in ("", "_unshared"))
    return f"activations: {size:,} bytes in {count} buffers, {unshared:,} if none were shared"


def _memory(manifest: Manifest) -> RichTable:
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for buffer in manifest.buffers:
        traits = [
            ("donated", buffer.donated),
            ("joined", buffer.parts),
            ("packed", buffer.packed),
            ("flagged", buffer.flagged),
        ]
        kind = ", ".join([buffer.kind, *(name for name, has in traits if has)])
        count[kind] += 1
        size[kind] += prod(buffer.memory_shape) * buffer.element_bytes
    result = RichTable("kind", "buffers", "bytes", title="memory")
    for kind in count:
        result.add_row(kind, str(count[kind]), f"{size[kind]:,}")
    return result


def _bodies(manifest: Manifest, table: Table) -> RichTable:
    families: dict[int, list[int]] = {}
    for family, row in enumerate(table.families):
        families.setdefault(int(row[0]), []).append(family)
    result = RichTable("body", "families", "tasks of each", "first family", title="bodies")
    for body, members in families.items():
        result.add_row(
            manifest.bodies[body],
            str(len(members)),
            str(int(table.families[members[0]][1])),
            manifest.families[members[0]],
        )
    return result
