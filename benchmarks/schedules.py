"""Scheduled graphs of several kinds, each under every policy and several numbers of workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from models import configurations
from transformers import AutoModelForCausalLM
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser
from xdsl.passes import PassPipeline
from xdsl.universe import Universe

from mpkir.analysis.families import WORKERS
from mpkir.dialects import event, task
from mpkir.dialects.event import Handoff, HandoffAttr
from mpkir.frontend import decode_step
from mpkir.machine import machine_named
from mpkir.passes.scheduling.policy import policy_names
from mpkir.pipeline import context, stages

GRAPHS = Path(__file__).parent / "graphs"
LAYERS = 2
"""Of SmolLM2's 30: one layer's tasks then wait for another's."""
LOWERING = (
    "mpk-lower-dependencies,mpk-fuse-events,mpk-normalize-events,mpk-linearize-tasks,"
    "mpk-pipeline-tasks{slot_bytes=256 slots=4 in_flight=2}"
)


@dataclass(frozen=True)
class Scheduled:
    """A module that verify-schedule has to accept."""

    name: str
    module: ModuleOp


def families() -> dict[str, str]:
    """What the families of graphs are."""
    return {
        "smollm2": f"SmolLM2-135M's decode step, {LAYERS} of 30 layers, all else as it is",
        "fork-join": "benchmarks/graphs/fork-join.mlir: three branches, two joins, a state",
        "two-gpu": "benchmarks/graphs/two-gpu.mlir: an all-reduce between two ranks",
    }


def schedules(family: str) -> list[Scheduled]:
    """The schedules of a family of graphs."""
    match family:
        case "smollm2":
            return list(_smollm2())
        case "fork-join":
            return list(_fork_join())
        case _:
            return list(_two_gpu())


def _smollm2() -> Iterator[Scheduled]:
    config = configurations()["smollm2-135m"]
    config.num_hidden_layers = LAYERS
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    imported = decode_step(model, capacity=64, stop=[2])
    for workers in (2, 3, 4):
        h100 = machine_named("h100", workers=workers)
        # As few tasks as there are workers, and a cache and a vocabulary in several chunks.
        tiles = replace(
            h100.tiles,
            max_rows=1 << 16,
            task_overhead=1 << 30,
            attention_chunk=32,
            argmax_chunks=4,
        )
        lowered = imported.clone()
        *rest, _, verify = stages(replace(h100, tiles=tiles))
        for stage in rest:
            stage.apply(context(), lowered)
        assert verify.name == "mpk-verify-schedule"
        for policy in policy_names():
            yield _placed(lowered, f"smollm2, {workers} workers, {policy}", workers, policy)


def _fork_join() -> Iterator[Scheduled]:
    lowered = _parse("fork-join")
    _run(lowered, LOWERING)
    for workers in (2, 3, 4, 5):
        for policy in policy_names():
            yield _placed(lowered, f"fork-join, {workers} workers, {policy}", workers, policy)


def _two_gpu() -> Iterator[Scheduled]:
    yield Scheduled("two-gpu, counters", _parse("two-gpu"))
    flags = _parse("two-gpu")
    for op in flags.walk():
        if isinstance(op, event.TensorOp) and op.sym_name.data == "h":
            op.handoff = HandoffAttr(Handoff.FLAG)
    yield Scheduled("two-gpu, flags", flags)
    tasks = _parse("two-gpu")
    _forget_events(tasks)
    for name, before in (("counters", ""), ("tags", "mpk-choose-handoffs,")):
        lowered = tasks.clone()
        _run(lowered, before + LOWERING)
        for workers in (2, 3):
            for policy in ("round-robin", "list"):
                title = f"two-gpu, {name}, {workers} workers, {policy}"
                yield _placed(lowered, title, workers, policy)


def _forget_events(module: ModuleOp) -> None:
    """Take a schedule back to the tasks alone."""
    for op in list(module.walk()):
        if isinstance(op, event.TensorOp | task.RingOp):
            op.detach()
            op.erase()
        elif isinstance(op, task.GridOp):
            op.waits = op.signals = op.workers = op.slots = op.stream = None
    del module.attributes[WORKERS]


def _placed(module: ModuleOp, name: str, workers: int, policy: str) -> Scheduled:
    result = module.clone()
    _run(result, f"mpk-schedule-tasks{{workers={workers} policy={policy}}}")
    return Scheduled(name, result)


def _parse(name: str) -> ModuleOp:
    path = GRAPHS / f"{name}.mlir"
    return Parser(context(), path.read_text(encoding="utf-8"), str(path)).parse_module()


def _run(module: ModuleOp, pipeline: str) -> None:
    passes = Universe.get_multiverse().all_passes
    PassPipeline.parse_spec(passes, pipeline).apply(context(), module)
    module.verify()
