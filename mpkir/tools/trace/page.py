"""A traced step as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import json
import zlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from mpkir.runtime.table import TaskField
from mpkir.tools.trace.path import Link
from mpkir.tools.trace.summary import bytes_over_time, operators_of, shares_over_time, summary
from mpkir.tools.trace.timeline import CAUSES, Planned, Timeline

COLUMNS = ("turned", "ready", "data", "weights", "computed", "done")
"""Of `Timeline.times`, as the script calls them."""

BIN_NS = 250
MOST_BINS = 16000


def page_of(
    timeline: Timeline, path: Sequence[Link], title: str, planned: Planned | None = None
) -> str:
    """The page's text."""
    order = np.lexsort((timeline.times[:, 0], timeline.worker))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    bins = int(np.clip(timeline.end // BIN_NS, 1, MOST_BINS))
    shares = shares_over_time(timeline, bins)
    in_flight, rate = bytes_over_time(timeline, bins)
    found = summary(timeline, path)
    bandwidth = 0.0
    columns: dict[str, npt.NDArray[Any]] = {
        "row": timeline.worker,
        "family": timeline.family,
        "index": timeline.column(TaskField.INDEX),
        "event": timeline.column(TaskField.WAIT_EVENT),
        "step": np.arange(len(order)) // timeline.tasks_per_step,
        **{name: timeline.times[:, k] for k, name in enumerate(COLUMNS)},
    }
    if planned is not None:
        columns |= {
            "plan_row": planned.worker,
            "plan_start": planned.start,
            "plan_end": planned.end,
        }
        found["plan"] = planned.comparison
        bandwidth = planned.bandwidth_gb_s
    # Bins are shorter than a stage takes to land, so single ones say little: scale by most of them.
    most_rate = max(bandwidth, float(np.percentile(rate, 99.5))) * 1.05
    data = {
        "summary": found,
        "end": timeline.end,
        "steps": timeline.recording.steps,
        "rows": timeline.rows,
        "workers": timeline.program.table.worker_count,
        "worker_name": "SM" if timeline.program.manifest.target.kind == "cuda" else "thread",
        "operators": operators_of(timeline.program.table.names.families).names,
        "families": _families(timeline),
        "events": timeline.program.table.names.events,
        "path": [
            (int(place[link.task]), link.cause, link.begin, link.handoff, link.weights, link.end)
            for link in path
        ],
        "bins": bins,
        "most_in_flight": float(in_flight.max(initial=0.0)),
        "most_rate": max(most_rate, 1.0),
        "bandwidth": bandwidth,
        "has_plan": planned is not None,
        "columns": {name: _packed(each[order], np.int32) for name, each in columns.items()},
        "series": {
            "in_flight": _packed(in_flight, np.float32),
            "rate": _packed(rate, np.float32),
            **{f"share_{cause}": _packed(shares[k], np.float32) for k, cause in enumerate(CAUSES)},
        },
    }
    parts = {
        "title": html.escape(title),
        "style": _part("page.css"),
        "data": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        "script": _part("page.js"),
    }
    text = _part("page.html")
    for name, part in parts.items():
        before, after = text.split(f"{{{{{name}}}}}", 1)
        text = before + part + after.replace(f"{{{{{name}}}}}", part)
    return text


def _part(name: str) -> str:
    return files("mpkir.tools.trace").joinpath(name).read_text(encoding="utf-8")


def _families(timeline: Timeline) -> list[dict[str, Any]]:
    program = timeline.program
    operators = operators_of(program.table.names.families)
    result: list[dict[str, Any]] = []
    for number, name in enumerate(program.table.names.families):
        origin = program.origins[number] if program.origins else None
        body = program.table.names.bodies[int(program.table.families[number, 0])]
        result.append(
            {
                "name": name,
                "operator": int(operators.of_family[number]),
                "kind": origin.operator if origin else body,
                "line": origin.line if origin else "",
                "text": origin.text if origin else "",
            }
        )
    return result


def _packed(values: npt.NDArray[Any], kind: type[np.generic]) -> str:
    return base64.b64encode(zlib.compress(values.astype(kind).tobytes(), 9)).decode()
