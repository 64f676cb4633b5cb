"""What the watchdog says on a GPU of schedules that hang, and that the program runs on after it.

    python benchmarks/check_watchdog.py build/h100/MODEL [--json FILE]

Random weights. Of the table in the GPU's memory
  signal   one task's signal is taken out
  store    one task is replaced by another of its family, so what it should store is never there
           (only programs that hand over by flagged buffers)
and a launch of 8 steps has to end about 2 s later with an error that names what is missing; then,
with the table as it was, the tokens of a launch have to be those of the first.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from mpkir.errors import MpkirError
from mpkir.runtime.artifact import load_artifact
from mpkir.runtime.cuda import CudaProgram
from mpkir.runtime.origins import flagged_writers, origins_of
from mpkir.runtime.program import Program
from mpkir.runtime.recording import random_weights
from mpkir.runtime.table import Table, TaskField

STEPS, PROMPT = 8, 16
LATEST_S = 2.0 * 1.25 + 1.0
"""The watchdog looks eight times a period; a second for the report."""


def broken_tables(program: Program) -> Iterator[tuple[str, Table, str]]:
    """What is broken, the table, and what the report has to name."""
    table, f = program.table, TaskField
    signals = np.flatnonzero(table.tasks[:, f.SIGNAL_EVENT] >= 0)
    waited = set(table.tasks[table.tasks[:, f.WAIT_EVENT] >= 0, f.WAIT_EVENT].tolist())
    useful = [k for k in signals.tolist() if int(table.tasks[k, f.SIGNAL_EVENT]) in waited]
    for task in useful[:: max(1, len(useful) // 3)][:4]:
        tasks = table.tasks.copy()
        event = table.names.events[int(tasks[task, f.SIGNAL_EVENT])]
        tasks[task, [f.SIGNAL_EVENT, f.SIGNAL_AMOUNT]] = -1, 0
        yield (
            f"signal of {table.task_label(task)} to {event}",
            _with(table, tasks),
            f"event {event}",
        )
    manifest = program.manifest
    origins = origins_of(program.artifact.path, manifest)
    writers = {
        family: buffer
        for buffer, families in flagged_writers(table, manifest, origins).items()
        for family in families
    }
    rows = np.flatnonzero(np.isin(table.tasks[:, f.FAMILY], list(writers)))
    for task in rows[:: max(1, len(rows) // 3)][:4].tolist():
        family = int(table.tasks[task, f.FAMILY])
        same = np.flatnonzero(table.tasks[:, f.FAMILY] == family)
        if len(same) < 2:
            continue
        tasks = table.tasks.copy()
        tasks[task, f.INDEX] = tasks[int(same[same != task][0]), f.INDEX]
        buffer = table.names.buffers[writers[family]]
        yield (
            f"store of {table.task_label(task)} to {buffer}",
            _with(table, tasks),
            f"buffer {buffer}",
        )


def _with(table: Table, tasks: Any) -> Table:
    return Table(tasks, table.workers, table.families, table.events, table.names)


def tokens_of(program: Program) -> list[int]:
    """Of a launch from the beginning."""
    assert program.manifest.language is not None
    sequence = program.buffer(program.manifest.language.tokens)
    sequence.fill_(-1)
    sequence[..., :PROMPT] = torch.arange(PROMPT, device=sequence.device)
    program.run(0, PROMPT + STEPS)
    return sequence[..., : PROMPT + STEPS].flatten().tolist()


def check(program: Program, broken: Table, name: str, wanted: str, right: list[int]) -> bool:
    """Whether the watchdog does what it should of one broken table."""
    launcher = program.launcher
    assert isinstance(launcher, CudaProgram)
    on_device = launcher._arrays[0]
    whole = on_device.clone()
    on_device.copy_(torch.from_numpy(broken.tasks).to(on_device.device))
    begun, report = perf_counter(), ""
    try:
        tokens_of(program)
    except MpkirError as error:
        report = str(error)
    seconds = perf_counter() - begun
    on_device.copy_(whole)
    again = tokens_of(program) == right
    named = f"- {wanted} " in report
    good = bool(report) and named and again and seconds < LATEST_S
    verdict = f"{'right' if good else 'WRONG'}, after {seconds:.2f} s"
    print(
        f"== {name}: {verdict}, then the same tokens: {again}\n{report or 'no error'}\n", flush=True
    )
    return good


def main() -> None:
    """Check every broken table; exit code 1 if one is not found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    artifact = load_artifact(given.artifact)
    program = Program(artifact, random_weights(artifact))
    right = tokens_of(program)
    found = {
        name: check(program, broken, name, wanted, right)
        for name, broken, wanted in broken_tables(program)
    }
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(0 if all(found.values()) else 1)


if __name__ == "__main__":
    main()
