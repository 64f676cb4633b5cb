"""benchmarks/trace_layers.py: figures of layers and of a step's end, of times that are known."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mpkir.errors import MpkirError
from mpkir.language_model import compile_language_model
from mpkir.progress import SILENT
from mpkir.runtime.manifest import Buffer, Manifest, Target
from mpkir.runtime.origins import Origin, flagged_writers
from mpkir.runtime.recording import NOT_MARKED, Recording
from mpkir.runtime.table import TableNames, build_table
from mpkir.tools.trace.command import record_artifact
from mpkir.tools.trace.timeline import TracedProgram, timeline_of

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "trace_layers.py"))
STAGES = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "trace_stages.py"))

LENGTHS = (50, 40, 42, 45, 60)
"""Microseconds from a layer's first result to the next one's; the last one's to its own end."""
LATE = (0, 1, 2, 3, 0)
"""How much later than MARKS all of a layer behind its q, k, v is."""
BEGIN = 10
LAYER = (
    Origin("linear", 1),
    Origin("attention_split", 1, begins=(16, 32, 48)),
    Origin("attention_join", 2),
    Origin("linear", 1),
    Origin("linear", 1),
    Origin("linear", 2),
)
MARKS: dict[tuple[int, int], tuple[float, float]] = {
    (0, 0): (-3, 0),
    (0, 1): (-2, 2),
    (1, 0): (4, 7),
    (1, 1): (3, 7.4),
    (1, 2): (7, 8),
    (2, 0): (3.5, 9),
    (3, 0): (11, 14),
    (3, 1): (10, 15),
    (4, 0): (17, 20),
    (4, 1): (16, 21),
    (5, 0): (22, 27),
    (5, 1): (22, 28),
}
"""Of each family of a layer and each of its tasks: its data is there, it is through. The third part
of attention is beyond the position."""
END: dict[tuple[int, int], tuple[float, float]] = {
    (0, 0): (1, 20),
    (0, 1): (1, 24),
    (0, 2): (21, 40),
    (0, 3): (25, 50),
    (1, 0): (51, 53),
    (2, 0): (54, 55.5),
}
"""The same of lm_head, an argmax's parts and its merge, behind the last layer's end."""
EMBEDDING = 6


class Made:
    """A step of five layers on three workers, written down by hand."""

    def __init__(self) -> None:
        self.origins = [Origin("embedding", 1)]
        self.operands: list[tuple[int, ...]] = [(0, 1)]
        self.buffers = ["tokens", "x0"]
        self.tasks: list[tuple[int, int]] = [(0, 0)]
        self.times: list[tuple[float, float]] = [(0, EMBEDDING)]
        begin = BEGIN
        for layer, length in enumerate(LENGTHS):
            x = len(self.buffers) - 1
            q, parts, joined, y, h, out = range(x + 1, x + 7)
            self.buffers += [f"{name}{layer}" for name in ("q", "p", "j", "y", "h")]
            self.buffers += [f"x{layer + 1}"]
            reads = ((x, q), (q, parts), (q, parts, joined), (joined, y), (y, h), (h, y, out))
            first = self._add(LAYER, reads)
            for (family, task), times in MARKS.items():
                late = LATE[layer] if family else 0
                self._task(first + family, task, begin + late, times)
            begin += length
        x = len(self.buffers) - 1
        self.buffers += ["logits", "best", "token"]
        reads = ((x, x + 1), (x + 1, x + 2), (x + 2, x + 3))
        tail = [Origin(name, 1) for name in ("linear", "argmax_partial", "argmax_merge")]
        first = self._add(tail, reads)
        last = begin - LENGTHS[-1] + MARKS[5, 1][1]
        for (family, task), times in END.items():
            self._task(first + family, task, last, times)

    def _add(self, origins: Any, operands: Any) -> int:
        self.origins += origins
        self.operands += operands
        return len(self.origins) - len(origins)

    def _task(self, family: int, index: int, since: float, times: tuple[float, float]) -> None:
        self.tasks.append((family, index))
        self.times.append((since + times[0], since + times[1]))

    def timeline(self, position: int = 40) -> Any:
        """Even tasks on the first worker, odd ones on the second, joins on the third."""
        last = len(self.origins) - 1
        rows: list[list[tuple[int, ...]]] = [[], [], []]
        numbers: list[list[int]] = [[], [], []]
        for number, (family, index) in enumerate(self.tasks):
            joins = self.origins[family].operator == "attention_join"
            worker, ends = 2 if joins else index % 2, family == last
            rows[worker].append((family, index, -1, 0, 0, 0 if ends else -1, int(ends)))
            numbers[worker].append(number)
        count = [sum(family == each for family, _ in self.tasks) for each in range(last + 1)]
        table = build_table(
            worker_tasks=rows,
            families=[(k, count[k], 0, 0, *self.operands[k]) for k in range(last + 1)],
            events=[1],
            names=TableNames(
                tuple(self.buffers),
                tuple(f"{origin.operator}_{k}" for k, origin in enumerate(self.origins)),
                tuple(f"family{k}" for k in range(last + 1)),
                ("end",),
            ),
        )
        names = table.names
        manifest = Manifest(
            Target("cuda", "h100", "sm_90a", workers=3),
            tuple(
                Buffer(name, "scratch", "float32", (64,), flagged=True) for name in names.buffers
            ),
            *(names.bodies, names.families, names.events),
            source="kernel.cu",
            binary="kernel.cubin",
        )
        origins = tuple(self.origins)
        writers = flagged_writers(table, manifest, origins)
        marks: list[tuple[int, ...]] = []
        for number in chain(*numbers):
            data, computed = (round(1000 * time) for time in self.times[number])
            marks.append((0, 0, data if self.tasks[number][0] else NOT_MARKED, computed, computed))
        recording = Recording(
            np.array(marks, np.int64)[None], np.zeros((0, 8), np.int64), position, 0.3, "GPU"
        )
        return timeline_of(TracedProgram(manifest, table, origins, writers), recording)


def figures(timeline: Any) -> tuple[dict[str, float], dict[str, float]]:
    """Of layers, and of the end."""
    layers = SCRIPT["layers_of"](timeline.program)
    found = (SCRIPT[f"{name}_figures"](timeline, layers) for name in ("layer", "end"))
    of_layers, of_end = found
    return of_layers, of_end


def test_layers_whose_times_are_known():
    """Medians over the three in the middle, of which the median one is 2 us late."""
    found, end = figures(Made().timeline())
    assert found == pytest.approx(
        {
            "qkv_last_us": 2,
            "parts": 2,
            "part_has_q_us": 3.5 + 2,
            "part_takes_us": (3 + 4.4) / 2,
            "last_part_us": 7.4 + 2,
            "first_chunk_has_q_us": 3.5 + 2,
            "joined_us": 9 + 2,
            "output_has_x_us": 10 + 2,
            "gate_up_has_x_us": 16 + 2,
            "layer_us": 42,
        }
    )
    assert end == pytest.approx(
        {
            "lm_head_first_us": 40,
            "lm_head_last_us": 50,
            "argmax_partial_us": 53,
            "argmax_merge_us": 55.5,
            "embedding_us": EMBEDDING,
        }
    )


def test_parts_beyond_the_position_say_nothing():
    """At position 50 there are three parts; at 10 none but the one that joins."""
    found, _ = figures(Made().timeline(50))
    assert (found["parts"], found["last_part_us"]) == (3, 10)
    found, _ = figures(Made().timeline(10))
    assert not {"parts", "part_has_q_us", "last_part_us"} & found.keys()
    assert found["joined_us"] == 11


def test_layers_that_are_not_alike():
    made = Made()
    made.origins[13] = Origin("elementwise", 1)
    with pytest.raises(MpkirError, match="family13 has other operators"):
        figures(made.timeline())
    made = Made()
    made.origins = [Origin("linear", each.reads) for each in made.origins]
    with pytest.raises(MpkirError, match="no attention"):
        figures(made.timeline())


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str, script: dict[str, Any] = SCRIPT) -> str:
        monkeypatch.setattr(sys, "argv", [script["__file__"], *arguments])
        script["main"]()
        return capsys.readouterr().out

    return run


def test_a_model_on_the_cpu(
    run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Compiled, recorded as trace_decode.py does, and read: a program as it is today, two steps."""
    import transformers

    monkeypatch.setenv("MPKIR_CACHE", str(tmp_path / "cache"))
    config = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=128,
        dtype="bfloat16",
    )
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    artifact = tmp_path / "llama+long-from=0+batch=2"
    compile_language_model(model, "cpu", capacity=128, batch=2, workers=2, output=artifact)
    recording = record_artifact(artifact, 100, kept=2, random=True, runs=1, progress=SILENT)
    recording.save(tmp_path / "trace.npz")
    printed = run(
        *(str(artifact), str(tmp_path / "trace.npz")),
        *("--note", "a note", "--json", str(tmp_path / "found.json")),
    )
    layers, end = json.loads((tmp_path / "found.json").read_text("utf-8"))
    for record, name in ((layers, "trace-layers"), (end, "trace-end")):
        assert record["benchmark"] == name
        assert record["note"].endswith("; a note")
        about = ("model", "variant", "gpu", "gpus", "batch", "position")
        assert [record[key] for key in about] == ["llama", "long-from=0", "CPU", 1, 2, 100]
    assert layers["note"].startswith("medians over 1 layers")
    order = ("qkv_last_us", "joined_us", "gate_up_has_x_us", "layer_us")
    times = [layers[key] for key in order]
    assert times == sorted(times)
    assert 0 < end["lm_head_first_us"] <= end["lm_head_last_us"] <= end["argmax_merge_us"]
    assert f"layer_us              {layers['layer_us']:8}" in printed
    with pytest.raises(SystemExit, match="this is no trace"):
        run(str(artifact), str(artifact / "kernel.cpp"))
    of_stages = ("--json", str(tmp_path / "stages.json"))
    run(str(artifact), str(tmp_path / "trace.npz"), *of_stages, script=STAGES)
    (stages,) = json.loads((tmp_path / "stages.json").read_text("utf-8"))
    assert [stages[key] for key in ("gpu", "gpus", "batch")] == ["CPU", 1, 2]
    assert stages["ms"] > 0
