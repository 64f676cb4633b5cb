"""Publish when the parts of a layer had their data and were through in traced decode steps, and how
a step ends.

    python benchmarks/trace_decode.py --artifacts build/h100 --output traces MODEL  # on the GPU
    python benchmarks/trace_layers.py build/h100/MODEL traces/MODEL.npz --json FILE  # anywhere

Layers are found by what the families do: each has one attention, whole or in parts, begins with the
products that write what its attention reads (q, k, v), and is followed by others of the same
operators. The first and the last, whose neighbours are no layers, do not count among three or more.

`trace-layers` has medians over layers, in microseconds behind the first result of q, k, v:

    qkv_last_us           the last result of q, k, v
    parts                 tasks of attention that have rows of the cache at this position, but for
                          those that join the others to rows of their own
    part_has_q_us         the median part has its q; it takes part_takes_us from there
    last_part_us          the last part is through
    first_chunk_has_q_us  the median task that joins others to its own rows has its q
    joined_us             the median task that joins is through; without one, the median part
    output_has_x_us       the first task of the output projection has its x
    gate_up_has_x_us      the first task of what follows it, gate and up, has its x
    layer_us              the first result of the next layer's q, k, v

`trace-end` has medians over steps, in microseconds behind the last layer's last result: the first
and the last worker through with lm_head, then the last task of each family behind it. embedding_us
is from the first task of the step that may start to the embedding's last result.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from mpkir.errors import MpkirError
from mpkir.runtime.origins import left_out
from mpkir.runtime.recording import Recording
from mpkir.tools.bench.models import TAG
from mpkir.tools.bench.records import append_records, provenance
from mpkir.tools.trace.timeline import (
    COMPUTED,
    DATA,
    READY,
    Timeline,
    TracedProgram,
    read_program,
    timeline_of,
)

PARTS = ("attention", "attention_split")
JOINS = ("attention_join", "attention_merge")
OWN_ROWS = "attention_join"
"""Of the joins, those that have a chunk of their own."""
PRODUCTS = ("linear", "expert_linear")
EMBEDDING = "embedding"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Layer:
    """Families of one layer, by their numbers in the table."""

    families: range
    qkv: tuple[int, ...]
    parts: int
    joins: tuple[int, ...]
    output: tuple[int, ...]
    """The first product behind attention; () if there is none."""
    gate_up: tuple[int, ...]
    """The next, and those that do not wait for it."""


@dataclass(frozen=True)
class Layers:
    """A step's layers, and what follows them."""

    layers: tuple[Layer, ...]
    tail: range

    @property
    def inner(self) -> slice:
        """The layers that stand between others; all of one or two."""
        return slice(1, -1) if len(self.layers) > 2 else slice(None)


def layers_of(program: TracedProgram) -> Layers:
    """Raises MpkirError for a program that is not made of equal layers, each with one attention."""
    operators = [origin.operator for origin in program.origins]
    heads = [family for family, operator in enumerate(operators) if operator in PARTS]
    if not heads:
        raise MpkirError(
            "the program has no attention to find its layers by",
            hint=None if operators else "the artifact is of an older version: compile it again",
        )
    qkv = [_made_for(program, head) for head in heads]
    begins = [min(each, default=head) for each, head in zip(qkv, heads, strict=True)]
    products = [family for family, operator in enumerate(operators) if operator in PRODUCTS]
    # Of one layer nothing says how long it is, but that an lm_head follows it.
    length = begins[1] - begins[0] if len(begins) > 1 else max(products, default=0) - begins[0]
    ranges = [range(begin, begin + length) for begin in begins]
    first = operators[begins[0] : ranges[0].stop]
    for number, families in enumerate(ranges):
        begin = begins[number]
        found = operators[begin : families.stop]
        if begin != begins[0] + number * length or found != first:
            raise MpkirError(
                f"the layer that begins with {program.manifest.families[begin]} has other "
                f"operators ({', '.join(found)}) than the first ({', '.join(first)})",
                hint="medians are over layers that are alike",
            )
    layers = map(_layer, [program] * len(heads), ranges, qkv, heads)
    return Layers(tuple(layers), range(ranges[-1].stop, len(operators)))


def _layer(program: TracedProgram, families: range, qkv: tuple[int, ...], head: int) -> Layer:
    behind = range(head + 1, families.stop)
    joins = tuple(each for each in behind if program.origins[each].operator in JOINS)
    products = [each for each in behind if program.origins[each].operator in PRODUCTS]
    gate_up: list[int] = []
    made: set[int] = set()
    for family in range(products[1], families.stop) if len(products) > 1 else ():
        if family in products and made.isdisjoint(_reads(program, family)):
            gate_up.append(family)
        made |= set(_writes(program, family))
    return Layer(families, qkv, head, joins, tuple(products[:1]), tuple(gate_up))


def _made_for(program: TracedProgram, head: int) -> tuple[int, ...]:
    """Who was the last to write each thing that an attention reads; its cache nobody before it."""
    found: set[int] = set()
    for buffer in _reads(program, head):
        writers = [each for each in range(head) if buffer in _writes(program, each)]
        found |= set(writers[-1:])
    return tuple(sorted(found))


def _reads(program: TracedProgram, family: int) -> tuple[int, ...]:
    return program.table.operands(family)[: program.origins[family].reads]


def _writes(program: TracedProgram, family: int) -> tuple[int, ...]:
    return program.table.operands(family)[program.origins[family].reads :]


class Step:
    """When the tasks of one step had their data and were through, in microseconds."""

    def __init__(self, timeline: Timeline, step: int) -> None:
        program, count = timeline.program, timeline.tasks_per_step
        own = slice(step * count, (step + 1) * count)
        self.family, self.worker = timeline.family[own], timeline.worker[own]
        self._times = timeline.times[own] / 1e3
        tokens = program.manifest.tokens_per_step
        last = timeline.recording.position + (step + 1) * tokens - 1
        self._has_rows = ~left_out(program.table, program.origins, last)

    def at(self, mark: int, *families: int) -> Floats:
        """A column of `Timeline.times` for their tasks, but for chunks beyond the position."""
        return self._times[np.isin(self.family, families) & self._has_rows, mark]

    def last_of_workers(self, *families: int) -> Floats:
        """When each worker was through with the last of their tasks that it had."""
        chosen = np.isin(self.family, families)
        worker, through = self.worker[chosen], self._times[chosen, COMPUTED]
        return np.array([through[worker == each].max() for each in np.unique(worker)])


def times_of(program: TracedProgram, step: Step, layer: Layer) -> dict[str, float]:
    """Of a layer what `trace-layers` has, but for its length."""
    qkv = step.at(COMPUTED, *layer.qkv)
    begin = float(qkv.min())
    found = {"qkv_last_us": qkv.max() - begin}
    has_q, through = step.at(DATA, layer.parts), step.at(COMPUTED, layer.parts)
    if len(through):
        found["parts"] = len(through)
        found["part_has_q_us"] = np.median(has_q) - begin
        found["part_takes_us"] = np.median(through - has_q)
        found["last_part_us"] = through.max() - begin
    own = [each for each in layer.joins if program.origins[each].operator == OWN_ROWS]
    if own:
        found["first_chunk_has_q_us"] = np.median(step.at(DATA, *own)) - begin
    if layer.joins or len(through):
        joined = step.at(COMPUTED, *(layer.joins or [layer.parts]))
        found["joined_us"] = np.median(joined) - begin
    for name, families in (("output", layer.output), ("gate_up", layer.gate_up)):
        if families:
            found[f"{name}_has_x_us"] = step.at(DATA, *families).min() - begin
    return {key: float(value) for key, value in found.items()}


def medians(each: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of the figures that all have, rounded; counts stay whole where they can."""
    found = {
        key: round(median(one[key] for one in each), 1)
        for key in (each[0] if each else {})
        if all(key in one for one in each)
    }
    return {key: int(v) if key == "parts" and v == int(v) else v for key, v in found.items()}


def layer_figures(timeline: Timeline, layers: Layers) -> dict[str, float]:
    """What `trace-layers` has."""
    found: list[dict[str, float]] = []
    lengths: list[dict[str, float]] = []
    for step in _steps(timeline):
        inner = layers.layers[layers.inner]
        found += [times_of(timeline.program, step, layer) for layer in inner]
        begins = [float(step.at(COMPUTED, *layer.qkv).min()) for layer in layers.layers]
        between = [{"layer_us": after - before} for before, after in pairwise(begins)]
        lengths += between[1:] if len(between) > 1 else between
    return {**medians(found), **medians(lengths)}


def end_figures(timeline: Timeline, layers: Layers) -> dict[str, float]:
    """What `trace-end` has; {} where no product follows the layers."""
    operators = [origin.operator for origin in timeline.program.origins]
    products = [family for family in layers.tail if operators[family] in PRODUCTS]
    if not products:
        return {}
    found: list[dict[str, float]] = []
    for step in _steps(timeline):
        begin = float(step.at(COMPUTED, *layers.layers[-1].families).max())
        workers = step.last_of_workers(products[-1]) - begin
        each = {"lm_head_first_us": workers.min(), "lm_head_last_us": workers.max()}
        for family in range(products[-1] + 1, layers.tail.stop):
            each[f"{operators[family]}_us"] = step.at(COMPUTED, family).max() - begin
        if EMBEDDING in operators:
            embedding = operators.index(EMBEDDING)
            begun = step.at(READY, *range(len(operators))).min()
            each["embedding_us"] = step.at(COMPUTED, embedding).max() - begun
        found.append({key: float(value) for key, value in each.items()})
    return medians(found)


def _steps(timeline: Timeline) -> Iterator[Step]:
    return (Step(timeline, number) for number in range(timeline.recording.steps))


def records_of(
    artifact: Path, recording: Recording, variant: str | None = None, note: str = ""
) -> list[dict[str, Any]]:
    """The records of one trace. The model's name and the variant are those of the artifact's folder
    unless one is given. Raises MpkirError.
    """
    program = read_program(artifact)
    timeline, layers = timeline_of(program, recording), layers_of(program)
    manifest = program.manifest
    model, *tags = artifact.resolve().name.split(TAG)
    named = TAG.join(tag for tag in tags if not tag.startswith(("batch=", "tp=")))
    about = {
        "system": "mpkir-megakernel",
        "model": model,
        "variant": named if variant is None else variant,
        "gpu": recording.device,
        "gpus": manifest.ranks,
        "batch": 1 if manifest.language is None else manifest.language.batch,
        "position": recording.position,
        **provenance(),
    }
    count = len(layers.layers[layers.inner])
    said = {
        "trace-layers": f"medians over {count} layers, us behind the first result of q, k, v",
        "trace-end": "us behind the last layer's end: the first and the last worker through with "
        "lm_head, the last task of each family behind it; the embedding takes embedding_us",
    }
    figures = {
        "trace-layers": layer_figures(timeline, layers),
        "trace-end": end_figures(timeline, layers),
    }
    more = f"; {note}" if note else ""
    return [
        {"benchmark": name, **about, "note": said[name] + more, **found}
        for name, found in figures.items()
        if found
    ]


def main() -> None:
    """Print one trace's figures, and append its records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("trace", type=Path, help="of trace_decode.py or `mpk trace`")
    parser.add_argument("--variant", help="if not what the artifact's folder says")
    parser.add_argument("--note", default="", help="what else to say of it")
    parser.add_argument("--json", type=Path, help="results file to append to")
    given = parser.parse_args()
    try:
        recording = Recording.load(given.trace)
        records = records_of(given.artifact, recording, given.variant, given.note)
        for record in records:
            print(f"{record['benchmark']}, {record['model']}: {record['note']}")
            figures = list(record)[list(record).index("note") + 1 :]
            print("".join(f"  {name:22}{record[name]:8}\n" for name in figures), end="", flush=True)
        if given.json is not None:
            append_records(given.json, records)
    except MpkirError as error:
        sys.exit(f"trace_layers: error: {error}")


if __name__ == "__main__":
    main()
