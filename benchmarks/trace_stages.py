"""The stages of a traced decode step: how long each operator of a layer takes, and the hops.

    python benchmarks/trace_stages.py ARTIFACT TRACE.npz --json benchmarks/results/trace-h100.json

An operator's stage lasts from the first task that may start to the last that has signalled; a hop
from there to the first start of the next stage. Both are medians over the layers, microseconds.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mpkir.runtime.artifact import Artifact, load_artifact
from mpkir.tools.bench import append_records, provenance

SIDE_BY_SIDE = 1000
"""A stage that starts so many nanoseconds before the one before it ends does not wait for it."""


def stages_of(artifact: Artifact, ns: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Medians of stages, by operator without its layer's number, and of hops."""
    family = artifact.table.tasks[: len(ns), 0]
    spans: list[tuple[int, int, str]] = []
    for number in np.unique(family):
        marks = ns[family == number]
        name = re.sub(r"\.\d+\b", ".*", artifact.table.names.families[number])
        spans.append((int(marks[:, 1].min()), int(marks[:, 2].max()), name))
    spans.sort()
    lasting: dict[str, list[float]] = defaultdict(list)
    for begin, end, name in spans:
        lasting[name].append((end - begin) / 1e3)
    hops = [(b - end) / 1e3 for (_, end, _), (b, _, _) in pairwise(spans) if b > end - SIDE_BY_SIDE]
    return {
        "stages_us": {name: round(median(each), 2) for name, each in lasting.items()},
        "hop_us": round(median(hop for hop in hops if hop > 0), 3),
        "last_step_ms": round((spans[-1][1] - spans[0][0]) / 1e6, 4),
    }


def main() -> None:
    """Append the record of one trace."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--gpu", default="NVIDIA H100 80GB HBM3", help="where it was traced")
    parser.add_argument("--variant", default="")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    artifact = load_artifact(arguments.artifact)
    with np.load(arguments.trace) as trace:
        ns, ms = trace["ns"], float(trace["ms"])
    record = {
        "benchmark": "trace",
        "system": "mpkir-megakernel",
        "model": arguments.trace.stem,
        "variant": arguments.variant,
        "gpu": arguments.gpu,
        "gpus": 1,
        "batch": 1,
        "ms": ms,
        **stages_of(artifact, ns),
        **provenance(),
    }
    append_records(arguments.json, [record])


if __name__ == "__main__":
    main()
