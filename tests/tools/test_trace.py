"""`mpk trace`: recorded steps, what is said of them, the page in a browser, the Perfetto trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import mpkir
from mpkir.errors import MpkirError
from mpkir.runtime.manifest import Buffer, Manifest, Target
from mpkir.runtime.origins import Origin, flagged_writers
from mpkir.runtime.recording import MARKS, NOT_MARKED, STAGE_FIELDS, Recording
from mpkir.runtime.table import TableNames, build_table
from mpkir.tools import mpk
from mpkir.tools.trace.page import page_of
from mpkir.tools.trace.path import critical_path
from mpkir.tools.trace.perfetto_file import perfetto_trace
from mpkir.tools.trace.summary import bytes_over_time, shares_over_time, summary
from mpkir.tools.trace.timeline import Timeline, TracedProgram, timeline_of


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPKIR_CACHE", str(folder / "cache"))
        module = nn.Sequential(nn.Linear(64, 96), nn.LayerNorm(96), nn.GELU(), nn.Linear(96, 32))
        mpkir.compile(
            module, (torch.randn(4, 64),), target="cpu", workers=2, output=folder / "perceptron"
        )
    return folder / "perceptron"


@pytest.fixture
def trace(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """Run the command with these arguments; the facts that it prints."""

    def run(*arguments: str) -> dict[str, Any]:
        with pytest.raises(SystemExit) as stopped:
            mpk.main(
                ["trace", str(artifact), "-o", str(tmp_path / "step"), *arguments, "--json", "-"]
            )
        output = capsys.readouterr()
        if stopped.value.code not in (0, None):
            raise MpkirError(str(stopped.value.code))
        return json.loads(output.out)

    return run


def test_a_step_on_the_cpu(trace: Callable[..., dict[str, Any]], artifact: Path, tmp_path: Path):
    """Recorded, drawn, and drawn again from the recording; the parts add up to the whole."""
    found = trace("--position", "7", "--steps", "3")
    assert (found["steps"], found["position"], found["workers"]) == (3, 7, 2)
    assert sum(found["workers_spend"].values()) == pytest.approx(1, abs=1e-3)
    path = sum(each["us"] for each in found["critical_path"].values())
    assert path == pytest.approx(3 * found["traced_us"], rel=1e-2)
    recording = Recording.load(tmp_path / "step.npz")
    done = recording.marks[:, :, MARKS.index("done")]
    assert (done[1:].min(axis=1) >= done[:-1].max(axis=1) - 10**6).all()
    assert (done >= recording.marks[:, :, MARKS.index("ready")]).all()
    again = trace("--from", str(tmp_path / "step.npz"), "--no-perfetto")
    assert again == found
    with pytest.raises(MpkirError, match="position 0 has no step before it"):
        trace("--position", "0")
    text = (tmp_path / "step.html").read_text("utf-8")
    assert "://" not in text.replace("http://www.w3.org", "")  # it loads nothing
    short = replace(recording, marks=recording.marks[:, :3])
    short.save(tmp_path / "short.npz")
    with pytest.raises(MpkirError, match="a trace of 3 tasks, the table has"):
        trace("--from", str(tmp_path / "short.npz"))
    (tmp_path / "short.npz").write_bytes(b"no")
    with pytest.raises(MpkirError, match="this is no trace"):
        trace("--from", str(tmp_path / "short.npz"))


# ---- a step made up, on a GPU ----


NO = NOT_MARKED / 1000


def us(*times: float) -> tuple[int, ...]:
    return tuple(int(1000 * time) for time in times)


@pytest.fixture
def made_up() -> Timeline:
    """Two SMs, a product of two tasks whose results are polled, a sum behind an event, and back.

    SM 0: product[0] 0 to 10 us, its weights land at 8; then it waits for data until 12, for the sum
    SM 1: product[1] 0 to 11 us, computed at 10; then it waits for the event of the sum until 20
    """
    table = build_table(
        worker_tasks=[
            [(0, 0, 1, 1, 1, -1, 0), (1, 0, -1, 0, 0, 0, 1)],
            [(0, 1, 1, 1, 1, -1, 0), (2, 0, 0, 1, 0, 1, 1)],
        ],
        families=[(0, 2, 8, 1, 0, 1), (1, 1, 0, 0, 1, 2), (2, 1, 0, 0, 2, 3)],
        events=[1, 1],
        names=TableNames(
            ("x", "h", "s", "out"),
            ("linear_0", "reduce_1", "argmax_2"),
            ("layers.0.up", "layers.0.sum", "argmax"),
            ("e0", "end"),
        ),
    )
    manifest = Manifest(
        Target("cuda", "h100", "sm_90a", workers=2),
        tuple(
            Buffer(name, "scratch", "float32", (64,), flagged=name == "h")
            for name in table.names.buffers
        ),
        *(table.names.bodies, table.names.families, table.names.events),
        source="kernel.cu",
        binary="kernel.cubin",
    )
    origins = (Origin("linear", 1, "model.py:3", "h = self.up(x)"), *[Origin("reduce", 1)] * 2)
    marks = [
        us(-0.5, 0, 1, 9.5, 10),
        us(0, 0, 12, NO, 15),
        us(-0.5, 0, 1, 10, 11),
        us(11, 20, NO, NO, 22),
    ]
    stages = [
        (0, 0, 0, 16384, *us(-2, -2, -2, 4)),
        (0, 0, 0, 16384, *us(-2, 0, 2, 8)),
        (1, 0, 2, 16384, *us(-1, -1, -1, 0.5)),
        (1, 1, 2, 8192, *us(12, 13, 15, 40)),
    ]
    assert len(stages[0]) == len(STAGE_FIELDS)
    recording = Recording(
        np.array(marks, np.int64)[None], np.array(stages, np.int64), 95, 0.0231, "GPU", 0.0225
    )
    return timeline_of(TracedProgram(manifest, table, origins, {1: (0,)}), recording)


def test_causes_of_waits(made_up: Timeline):
    found = made_up.spent()
    assert found["event"].tolist() == [0, 0, 0, 10_000]
    assert found["data"].tolist() == [1_000, 2_500, 1_000, 0]
    assert found["weights"].tolist() == [7_000, 0, 0, 0]
    assert found["compute"].tolist() == [1_500, 3_000, 9_000, 2_000]
    said = summary(made_up, critical_path(made_up))
    assert said["workers_spend"]["event"] == pytest.approx(10 / 44, abs=1e-4)
    assert said["workers_spend"]["weights"] == pytest.approx(7 / 44, abs=1e-4)
    assert said["weights"]["bytes"] == 3 * 16384
    assert said["weights"]["loaders_wait_for_slots"] == pytest.approx(3 / 44, abs=1e-4)
    assert said["weights"]["loaders_hold_back"] == pytest.approx(4 / 44, abs=1e-4)
    assert said["operators"]["layers.*.up"]["stage_us"] == 11


def test_the_critical_path(made_up: Timeline):
    """From the last task to the signal it waited for, to the last who wrote what that polled."""
    path = critical_path(made_up)
    assert [(link.task, link.cause) for link in path] == [(2, "worker"), (1, "data"), (3, "event")]
    assert [(link.begin, link.handoff, link.end) for link in path] == [
        (0, 1_000, 11_000),
        (11_000, 1_000, 15_000),
        (15_000, 5_000, 22_000),
    ]


def test_chunks_beyond_the_position_are_nobodys_cause():
    """Four chunks of 16 positions, of which a join has the first. At position 39 the last of the
    others has nothing to say, so the join goes on after the one before it, which was done earlier;
    at 48 it has. Where all are left out, it goes on after its q.
    """
    table = build_table(
        worker_tasks=[
            [(0, 0, -1, 0, 0, -1, 0), (1, 0, -1, 0, 0, -1, 0), (2, 0, -1, 0, 0, 0, 1)],
            *([(1, index, -1, 0, 0, -1, 0)] for index in (1, 2)),
        ],
        families=[(0, 1, 0, 0, 0), (1, 3, 0, 0, 0, 1), (2, 1, 0, 0, 0, 1, 2)],
        events=[1],
        names=TableNames(
            ("q", "acc", "y"), ("linear_0", "split_1", "join_2"), ("q", "split", "join"), ("end",)
        ),
    )
    manifest = Manifest(
        Target("cuda", "h100", "sm_90a", workers=3),
        tuple(Buffer(name, "scratch", "float32", (64,), flagged=name != "y") for name in "qsy"),
        *(table.names.bodies, table.names.families, table.names.events),
        source="kernel.cu",
        binary="kernel.cubin",
    )
    origins = (
        Origin("linear", 0),
        Origin("attention_split", 1, begins=(16, 32, 48)),
        Origin("attention_join", 2),
    )
    program = TracedProgram(manifest, table, origins, flagged_writers(table, manifest, origins))
    marks = [
        us(0, 0, NO, 1, 2),
        us(2, 2, 2, 4, 5),
        us(4, 4, 11, 12, 13),
        us(0, 0, 2, 6, 7),
        us(0, 0, NO, 8, 9),
    ]

    def cause(position: int) -> str:
        recording = Recording(
            np.array(marks, np.int64)[None], np.zeros((0, 8), np.int64), position, 0.013, "GPU"
        )
        timeline = timeline_of(program, recording)
        *_, before, last = critical_path(timeline)
        assert (timeline.name(last.task), last.cause) == ("join[0]", "data")
        return timeline.name(before.task)

    assert [cause(position) for position in (48, 47, 39, 31, 15)] == [
        *("split[2]", "split[1]", "split[1]", "split[0]", "q[0]")
    ]


def test_shares_and_bytes_are_integrals(made_up: Timeline):
    shares = shares_over_time(made_up, 22)
    spent = made_up.spent()
    for row, each in zip(shares, spent.values(), strict=True):
        assert row.sum() * 2 * 1000 == pytest.approx(each.sum())
    in_flight, rate = bytes_over_time(made_up, 22)
    assert in_flight[:5] == pytest.approx([24576, 16384, 32768, 32768, 16384])
    assert rate.sum() * 1000 == pytest.approx(3 * 16384)


def test_the_perfetto_trace(made_up: Timeline):
    from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as messages

    trace = messages.Trace()
    trace.ParseFromString(perfetto_trace(made_up, critical_path(made_up), "a step"))
    names = {p.track_descriptor.uuid: p.track_descriptor.name for p in trace.packet[:6]}
    assert list(names.values())[-2:] == ["SM 0", "SM 1"]
    depth: dict[int, int] = {}
    last: dict[int, int] = {}
    begun: list[tuple[str, str, int]] = []
    for packet in trace.packet[6:]:
        event = packet.track_event
        assert packet.timestamp >= last.get(event.track_uuid, 0)
        last[event.track_uuid] = packet.timestamp
        if event.type == event.TYPE_SLICE_BEGIN:
            begun.append((names[event.track_uuid], event.name, packet.timestamp))
        step = {event.TYPE_SLICE_BEGIN: 1, event.TYPE_SLICE_END: -1}.get(event.type, 0)
        depth[event.track_uuid] = depth.get(event.track_uuid, 0) + step
    assert not any(depth.values())
    assert ("SM 0", "waiting: weights", 1_000) in begun
    assert ("SM 1", "argmax[0]", 10_000) in begun
    assert ("critical path", "layers.0.sum[0]", 11_000) in begun


def test_the_page_in_a_browser(made_up: Timeline, browser: Any, tmp_path: Path):
    """It loads without an error, draws every part, says what is under the mouse, and zooms."""
    page = tmp_path / "page.html"
    page.write_text(page_of(made_up, critical_path(made_up), "a <step>"), "utf-8")
    browser.open(page)
    assert browser.value("document.title") == "a <step>"
    assert "95" in browser.value("document.getElementById('facts').textContent")
    colours = browser.value(
        "(() => { const c = page.context.getImageData(0, 0, page.canvas.width, page.canvas.height)"
        ".data; const s = new Set(); for (let i = 0; i < c.length; i += 4) "
        "s.add(`${c[i]},${c[i + 1]},${c[i + 2]}`); return [...s]; })()"
    )
    for wanted in ("66,105,208", "223,228,234", "240,163,94", "127,178,229", "201,215,232"):
        assert wanted in colours  # a product, an event, data, weights, bytes in flight
    # The product of SM 0 is the first task in the page's order.
    place = browser.value("page.show(0)")
    browser.value("new Promise((done) => requestAnimationFrame(() => done(1)))")
    browser.mouse("mouseMoved", **place)
    tip = browser.value("document.getElementById('tip').innerText")
    for wanted in ("layers.0.up[0]", "linear", "SM 0", "model.py:3", "h = self.up(x)", "7.00 us"):
        assert wanted in tip
    assert not browser.value("document.getElementById('tip').hidden")
    before = browser.value("page.to - page.from")
    browser.mouse("mouseWheel", **place, deltaX=0, deltaY=-400)
    assert browser.value("page.to - page.from") < before
    browser.value("document.querySelector('input[value=cause]').click()")
    browser.value("document.getElementById('whole').click()")
    assert browser.value("[page.from, page.to, page.mode]") == [0, 22_000, "cause"]
    rows = browser.value("[...document.querySelectorAll('#tables td')].map((e) => e.innerText)")
    assert "layers.*.up" in rows
    assert browser.screenshot().startswith(b"\x89PNG")
    assert browser.errors == []
