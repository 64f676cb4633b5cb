"""The plan beside the measurement: where and when the simulator has each task run."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpkir.analysis.plan import plan_of
from mpkir.analysis.simulator import play
from mpkir.machine import machine_named
from mpkir.progress import Progress
from mpkir.tools.simulation import DEFAULT_POLICY, compare, plan_of_table, scheduled_module
from mpkir.tools.trace.timeline import DONE, Ints, Planned, Timeline


def plan_beside(timeline: Timeline, source: str, progress: Progress | None = None) -> Planned:
    """Play the traced table on the machine model of its target.

    source: what the artifact was compiled from. Raises MpkirError if it is another program.
    """
    stages = progress or Progress()
    program, recording = timeline.program, timeline.recording
    target = program.manifest.target
    machine = machine_named(target.name, workers=target.workers)
    language = program.manifest.language
    capacity = None if language is None else language.capacity
    policy = str(program.manifest.info.get("policy", DEFAULT_POLICY))
    module = scheduled_module(source, machine, policy, capacity, 1, stages)
    with stages.stage("simulate"):
        plan, rows = plan_of_table(plan_of(module, machine, recording.position), program.table)
        played = play(plan)
    begin = float(played.ready.min(initial=0.0))
    each_step = np.arange(recording.steps) * played.step * 1e3

    def by_row(values: np.ndarray[Any, Any]) -> Ints:
        one = (values[rows] - begin) * 1e3
        return (one[None, :] + each_step[:, None]).reshape(-1).astype(np.int64)

    done = timeline.times[: timeline.tasks_per_step, DONE] / 1e3
    return Planned(
        np.tile(played.worker[rows], recording.steps),
        by_row(played.start),
        by_row(played.end),
        machine.memory_bandwidth,
        compare(played, rows, done),
    )
