"""`mpk inspect`: what an artifact holds, as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path

from rich.table import Table as RichTable

from mpkir.runtime.artifact import load_artifact
from mpkir.runtime.buffers import TORCH_DTYPES
from mpkir.runtime.manifest import Manifest
from mpkir.runtime.table import Table, TaskField


def describe(path: Path) -> Iterator[RichTable]:
    """Tables of an artifact's facts, buffers by kind, and families by body."""
    artifact = load_artifact(path)
    yield _facts(artifact.manifest, artifact.table)
    yield _memory(artifact.manifest)
    yield _bodies(artifact.manifest, artifact.table)


def _facts(manifest: Manifest, table: Table) -> RichTable:
    target = manifest.target
    result = RichTable("what", "value", title="program")
    waits = int((table.tasks[:, TaskField.WAIT_EVENT] >= 0).sum())
    signals = int((table.tasks[:, TaskField.SIGNAL_EVENT] >= 0).sum())
    rows: dict[str, object] = {
        "target": f"{target.name} ({target.arch})",
        "workers": target.workers,
        "tasks a step": len(table.tasks),
        "families": len(manifest.families),
        "bodies": len(manifest.bodies),
        "events": len(manifest.events),
        "waits and signals a step": f"{waits} and {signals}",
        "tokens a step": manifest.tokens_per_step,
        "written by mpkir": manifest.mpkir_version,
        **manifest.info,
    }
    if manifest.language is not None:
        rows["capacity"] = manifest.language.capacity
        rows["vocabulary"] = manifest.language.vocabulary
    for name, value in rows.items():
        result.add_row(name, str(value))
    return result


def _memory(manifest: Manifest) -> RichTable:
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for buffer in manifest.buffers:
        count[buffer.kind] += 1
        size[buffer.kind] += prod(buffer.shape) * TORCH_DTYPES[buffer.dtype].itemsize
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
