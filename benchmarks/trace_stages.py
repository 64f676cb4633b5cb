"""Publish what traced decode steps spent their time on, by operator and cause.

    python benchmarks/trace_stages.py ARTIFACT TRACE.npz --json benchmarks/results/trace-h100.json

A stage lasts from the first task of an operator that starts to the last result, a hop from there to
the first start of the next stage. Both are medians over the layers, microseconds.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mpkir.runtime.recording import Recording
from mpkir.tools.bench.records import append_records, provenance
from mpkir.tools.trace.path import critical_path
from mpkir.tools.trace.summary import summary
from mpkir.tools.trace.timeline import DATA, DONE, Timeline, read_program, timeline_of

SIDE_BY_SIDE = 1000
"""A stage that starts so many nanoseconds before the one before it ends does not wait for it."""


def hop(timeline: Timeline) -> dict[str, Any]:
    """The median hop in the first step."""
    count = timeline.tasks_per_step
    family, times = timeline.family[:count], timeline.times[:count]
    spans = sorted(
        (int(times[family == number, DATA].min()), int(times[family == number, DONE].max()))
        for number in np.unique(family)
    )
    hops = [(b - end) / 1e3 for (_, end), (b, _) in pairwise(spans) if b > end - SIDE_BY_SIDE]
    positive = [each for each in hops if each > 0]
    return {"hop_us": round(median(positive), 3)} if positive else {}


def main() -> None:
    """Append the record of one trace."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--variant", default="")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    recording = Recording.load(given.trace)
    program = read_program(given.artifact)
    timeline, language = timeline_of(program, recording), program.manifest.language
    record = {
        "benchmark": "trace",
        "system": "mpkir-megakernel",
        "model": given.trace.stem,
        "variant": given.variant,
        "gpu": recording.device,
        "gpus": program.manifest.ranks,
        "batch": 1 if language is None else language.batch,
        "ms": round(recording.step_ms, 5),
        "ms_untraced": round(recording.untraced_ms, 5),
        **summary(timeline, critical_path(timeline)),
        **hop(timeline),
        **provenance(),
    }
    append_records(given.json, [record])


if __name__ == "__main__":
    main()
