"""A traced step as a Perfetto trace, for https://ui.perfetto.dev or trace_processor.

One track for each worker, with a slice for every task from the worker's turning to it to its being
computed, and in it a slice for every wait; counters of the weights' stream; a track with the
critical path. Written with the `perfetto` package's messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mpkir.errors import MpkirError
from mpkir.runtime.table import TaskField
from mpkir.tools.trace.path import Link
from mpkir.tools.trace.summary import bytes_over_time, operators_of
from mpkir.tools.trace.timeline import CAUSES, COMPUTED, TURNED, Timeline

_SEQUENCE = 1
_PROCESS, _PATH, _IN_FLIGHT, _RATE, _FIRST_ROW = 1, 2, 3, 4, 16
_BIN_NS = 500
_WAITS = CAUSES[:3]


def perfetto_trace(timeline: Timeline, path: Sequence[Link], title: str) -> bytes:
    """The content of a .pftrace file. Raises MpkirError without the package."""
    try:
        from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as messages
    except ImportError as error:
        raise MpkirError(
            "a Perfetto trace is written with the package perfetto, which is not installed",
            hint="pip install perfetto, or leave it out with --no-perfetto",
        ) from error
    trace = messages.Trace()
    event = messages.TrackEvent
    for uuid, name, is_counter in _tracks(timeline, title):
        descriptor = trace.packet.add().track_descriptor
        descriptor.uuid, descriptor.name = uuid, name
        if uuid == _PROCESS:
            descriptor.process.pid, descriptor.process.process_name = 1, name
        else:
            descriptor.parent_uuid = _PROCESS
        if is_counter:
            descriptor.counter.SetInParent()
    for time, uuid, name, about in _slices(timeline, path):
        packet = trace.packet.add()
        packet.timestamp, packet.trusted_packet_sequence_id = time, _SEQUENCE
        track = packet.track_event
        track.track_uuid = uuid
        if name is None:
            track.type = event.TYPE_SLICE_END
            continue
        track.type, track.name = event.TYPE_SLICE_BEGIN, name
        for key, value in about.items():
            annotation = track.debug_annotations.add()
            annotation.name = key
            if isinstance(value, int):
                annotation.int_value = value
            else:
                annotation.string_value = value
    for uuid, values, edges in _counters(timeline):
        for time, value in zip(edges.tolist(), values.tolist(), strict=False):
            packet = trace.packet.add()
            packet.timestamp, packet.trusted_packet_sequence_id = int(time), _SEQUENCE
            packet.track_event.type = event.TYPE_COUNTER
            packet.track_event.track_uuid = uuid
            packet.track_event.double_counter_value = value
    return trace.SerializeToString()


def _tracks(timeline: Timeline, title: str) -> Iterator[tuple[int, str, bool]]:
    """Each track's id, name, and whether it is a counter."""
    program = timeline.program
    kind = "SM" if program.manifest.target.kind == "cuda" else "thread"
    yield _PROCESS, title, False
    yield _PATH, "critical path", False
    yield _IN_FLIGHT, "weights in flight (bytes)", True
    yield _RATE, "weights landing (GB/s)", True
    for row in range(timeline.rows):
        name = f"{kind} {row}" if row < program.table.worker_count else "given out at run time"
        yield _FIRST_ROW + row, name, False


def _slices(
    timeline: Timeline, path: Sequence[Link]
) -> Iterator[tuple[int, int, str | None, dict[str, int | str]]]:
    """Time, track, name (None for an end) and annotations, in order of time on each track."""
    program = timeline.program
    operators = operators_of(program.table.names.families)
    family = timeline.family.tolist()
    index = timeline.column(TaskField.INDEX).tolist()
    wait = timeline.column(TaskField.WAIT_EVENT).tolist()
    names, events = program.table.names.families, program.table.names.events
    for task in np.lexsort((timeline.times[:, TURNED], timeline.worker)).tolist():
        times = timeline.times[task].tolist()
        track = _FIRST_ROW + int(timeline.worker[task])
        if times[COMPUTED] <= times[TURNED]:
            continue
        number = family[task]
        about: dict[str, int | str] = {
            "operator": operators.names[int(operators.of_family[number])],
            "done": times[-1],
        }
        if wait[task] >= 0:
            about["event"] = events[wait[task]]
        if program.origins:
            about["line"] = program.origins[number].line
        yield times[TURNED], track, f"{names[number]}[{index[task]}]", about
        for k, cause in enumerate(_WAITS):
            if times[k + 1] > times[k]:
                yield times[k], track, f"waiting: {cause}", {}
                yield times[k + 1], track, None, {}
        yield times[COMPUTED], track, None, {}
    for link in path:
        if link.end > link.begin:
            about = {"after": link.cause, "hand-off": link.handoff, "weights": link.weights}
            yield link.begin, _PATH, timeline.name(link.task), about
            yield link.end, _PATH, None, {}


def _counters(timeline: Timeline) -> Iterator[tuple[int, Any, Any]]:
    if not len(timeline.recording.stages):
        return
    bins = max(1, timeline.end // _BIN_NS)
    edges = np.linspace(0, timeline.end, bins + 1)
    for uuid, values in zip((_IN_FLIGHT, _RATE), bytes_over_time(timeline, bins), strict=True):
        yield uuid, values, edges
