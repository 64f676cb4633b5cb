"""A recording joined with its table: what each worker's compute warps did and waited for.

A worker runs the tasks of its list one after another. From the moment it turns to a task until the
task is computed, every nanosecond is one of

    event     its event has not fired, or the worker that gives it out has not (dynamic tasks)
    data      it may start, and what it reads by polling has not all come
    weights   its data is there, and the last of its weights has not landed; stages that are there
              are multiplied meanwhile, so of a stream that is never late this is the task's length
    compute   all is there

Then its results are stored while the worker goes on (`publish`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mpkir.errors import MpkirError
from mpkir.runtime.artifact import TABLE, read_manifest
from mpkir.runtime.manifest import Manifest
from mpkir.runtime.origins import Origin, flagged_writers, origins_of
from mpkir.runtime.recording import NOT_MARKED, Recording
from mpkir.runtime.table import Table, TaskField

Ints = npt.NDArray[np.int64]

CAUSES = ("event", "data", "weights", "compute")
TURNED, READY, DATA, WEIGHTS, COMPUTED, DONE = range(6)
"""Columns of `Timeline.times`: `CAUSES[k]` lasts from column k to k + 1."""


@dataclass(frozen=True, eq=False)
class TracedProgram:
    """Of an artifact, what its traces are read with; its kernel and weights are not looked at."""

    manifest: Manifest
    table: Table
    origins: tuple[Origin, ...]
    writers: dict[int, tuple[int, ...]]
    """The families that write each flagged buffer."""


def read_program(folder: Path) -> TracedProgram:
    """Raises MpkirError where the folder is no artifact."""
    manifest = read_manifest(folder)
    table = Table.load(folder / TABLE, manifest.names)
    origins = origins_of(folder, manifest)
    return TracedProgram(manifest, table, origins, flagged_writers(table, manifest, origins))


@dataclass(frozen=True, eq=False)
class Timeline:
    """Tasks of all steps, step after step in the table's order; nanoseconds from the begin."""

    program: TracedProgram
    recording: Recording
    worker: Ints
    """[n]; a task that was given out at run time stands in a row behind the last worker's."""
    rows: int
    times: Ints
    """[n, 6] when its worker turned to it, its event was seen, its data had come, its weights had
    landed, it was computed, and its results were stored; never falling."""

    @property
    def tasks_per_step(self) -> int:
        return self.program.table.task_count

    @property
    def end(self) -> int:
        """When the last task was done."""
        return int(self.times[:, DONE].max())

    @property
    def family(self) -> Ints:
        """[n]"""
        families = self.program.table.tasks[:, TaskField.FAMILY].astype(np.int64)
        return np.tile(families, self.recording.steps)

    def column(self, field: TaskField) -> Ints:
        """A column of the table for every task of every step; [n]."""
        values = self.program.table.tasks[:, field].astype(np.int64)
        return np.tile(values, self.recording.steps)

    def name(self, task: int) -> str:
        """Like `l3.gate_up[5]`."""
        return self.program.table.task_label(task % self.tasks_per_step)

    def spent(self) -> dict[str, Ints]:
        """Nanoseconds of each task by cause; [n] each."""
        return {cause: np.diff(self.times[:, k : k + 2])[:, 0] for k, cause in enumerate(CAUSES)}


def timeline_of(program: TracedProgram, recording: Recording) -> Timeline:
    """Raises MpkirError if the recording is of another program or lacks steps."""
    table = program.table
    if recording.marks.shape[1] != table.task_count:
        raise MpkirError(
            f"a trace of {recording.marks.shape[1]} tasks, the table has {table.task_count}",
            hint="give the artifact that was traced",
        )
    marks = recording.marks.reshape(-1, recording.marks.shape[2])
    asked, ready, data, computed, done = marks.T
    if (done == NOT_MARKED).any() or (ready == NOT_MARKED).any():
        task = int(((done == NOT_MARKED) | (ready == NOT_MARKED)).argmax())
        raise MpkirError(
            f"{table.task_label(task % table.task_count)} left no marks, so the step did not run "
            "to its end",
            hint="trace again",
        )
    computed = np.where(computed == NOT_MARKED, done, computed)
    worker, rows = _rows(table, recording.steps, np.maximum(asked, 0), done)
    turned = _turned(worker, asked, computed)
    ready = np.maximum(turned, ready)
    data = np.maximum(ready, np.where(data == NOT_MARKED, ready, data))
    landed = _last_landed(recording, table.task_count)
    computed = np.maximum(computed, data)
    weights = np.clip(landed, data, computed)
    times = np.column_stack([turned, ready, data, weights, computed, np.maximum(done, computed)])
    return Timeline(program, recording, worker, rows, times)


def _rows(table: Table, steps: int, asked: Ints, done: Ints) -> tuple[Ints, int]:
    """The row of each task, and how many there are."""
    listed = np.repeat(np.arange(table.worker_count), np.diff(table.workers))
    worker = np.tile(np.append(listed, np.full(table.dynamic_count, -1)), steps)
    ends: list[int] = []
    given_out = np.flatnonzero(worker < 0)
    for task in given_out[np.argsort(asked[given_out], kind="stable")].tolist():
        row = next((k for k, end in enumerate(ends) if end <= asked[task]), len(ends))
        ends[row : row + 1] = [int(done[task])]
        worker[task] = table.worker_count + row
    return worker, table.worker_count + len(ends)


def _turned(worker: Ints, asked: Ints, computed: Ints) -> Ints:
    """When each row's compute warps had nothing else left to do; in order of the rows' lists."""
    order = np.argsort(worker, kind="stable")
    first = np.append(True, np.diff(worker[order]) != 0)
    before = np.append(0, computed[order][:-1])
    result = np.empty_like(asked)
    result[order] = np.where(first, np.maximum(asked[order], 0), before)
    return result


def _last_landed(recording: Recording, tasks: int) -> Ints:
    """When the last of each task's weights had landed; far back for a task without."""
    landed = np.full(recording.steps * tasks, np.iinfo(np.int64).min)
    step, row, when = recording.stages[:, 1], recording.stages[:, 2], recording.stages[:, 7]
    inside = (step >= 0) & (step < recording.steps)
    np.maximum.at(landed, (step * tasks + row)[inside], when[inside])
    return landed


@dataclass(frozen=True, eq=False)
class Planned:
    """Tasks in the order of a timeline; nanoseconds from the first step's begin."""

    worker: Ints
    start: Ints
    end: Ints
    bandwidth_gb_s: float
    """The machine model's."""
    comparison: dict[str, Any]
    """What each operator adds, measured (in the first step) and planned."""
