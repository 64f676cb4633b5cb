"""Activations that share memory: the same bits in any order, no live value overwritten, no wait
added.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided
from transformers import Qwen3Config
from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp
from xdsl.parser import Parser

from mpkir.analysis.families import Access, Family, families_of
from mpkir.analysis.precedence import precedence_of
from mpkir.backends.interpreter.event_level import EventProgram
from mpkir.dialects import task
from mpkir.frontend import decode_step, model_from_config
from mpkir.machine import Machine, machine_named
from mpkir.passes.fuse_events import FuseEventsPass
from mpkir.passes.linearize_tasks import LinearizeTasksPass
from mpkir.passes.lower_dependencies import LowerDependenciesPass
from mpkir.passes.normalize_events import NormalizeEventsPass
from mpkir.passes.partition_tiles import PartitionTilesPass
from mpkir.passes.plan_memory import ACTIVATIONS, PlanMemoryPass, activation_bytes
from mpkir.passes.schedule_tasks import ScheduleTasksPass
from mpkir.passes.verify_schedule import VerifySchedulePass
from mpkir.pipeline import context, stages

FEATURES = (4, 6, 9)


@st.composite
def steps(draw: st.DrawFn) -> str:
    """A step of products, sums, norms over rows, views and sums over columns, as text."""
    lines = ['%v0 = mpk_tensor.input "x" : tensor<2x6xf32>']
    values = {"%v0": (2, 6)}

    def add(text: str, shape: tuple[int, ...]) -> None:
        name = f"%v{len(values)}"
        lines.append(f"{name} = {text}")
        values[name] = shape

    def type(shape: tuple[int, ...]) -> str:
        return f"tensor<{'x'.join(map(str, shape))}xf32>"

    for number in range(draw(st.integers(2, 10))):
        names = list(values)
        x = names[max(0, len(names) - 1 - draw(st.integers(0, 3)))]
        shape = values[x]
        alike = [name for name in names if values[name] == shape]
        match draw(st.sampled_from(["linear", "linear", "add", "add", "softmax", "fold", "sum"])):
            case "linear":
                wide = draw(st.sampled_from(FEATURES))
                weight = (wide, shape[-1])
                lines.append(f'%w{number} = mpk_tensor.weight "w{number}" : {type(weight)}')
                result = (*shape[:-1], wide)
                add(
                    f"mpk_tensor.linear {x}, [%w{number}] : {type(shape)}, [{type(weight)}] "
                    f"to {type(result)}",
                    result,
                )
            case "add":
                y = draw(st.sampled_from(alike))
                add(
                    f"mpk_tensor.elementwise {x}, {y} {{\n  ^bb0(%0 : f32, %1 : f32):\n"
                    "  %2 = arith.addf %0, %1 : f32\n  mpk_tensor.yield %2 : f32\n"
                    f"}} : ({type(shape)}, {type(shape)}) -> {type(shape)}",
                    shape,
                )
            case "softmax":
                add(f"mpk_tensor.softmax {x} : {type(shape)} to {type(shape)}", shape)
            case "fold":
                folded = (prod(shape) // 2, 2) if prod(shape) % 2 == 0 else shape[::-1]
                add(f"mpk_tensor.reshape {x} : {type(shape)} to {type(folded)}", folded)
            case _:
                result = (1, *shape[1:])
                add(f"mpk_tensor.reduce sum {x} dims [0] : {type(shape)} to {type(result)}", result)
    kept = draw(st.sets(st.sampled_from(list(values)), max_size=2)) | {list(values)[-1]}
    for number, name in enumerate(sorted(kept)):
        lines.append(f'mpk_tensor.output "y{number}", {name} : {type(values[name])}')
    return "\n".join(["func.func @step() {", *lines, "func.return", "}"])


def lowered(text: str, workers: int, order: str) -> tuple[ModuleOp, ModuleOp]:
    """A step with planned memory: at task level, and with its events."""
    module = Parser(context(), text).parse_module()
    for each in (PartitionTilesPass(workers=workers, min_elements=2), PlanMemoryPass(order)):
        each.apply(Context(), module)
    module.verify()
    tasks = module.clone()
    LowerDependenciesPass().apply(Context(), module)
    return tasks, module


def scheduled(module: ModuleOp, workers: int) -> ModuleOp:
    """The same with a schedule that is proved safe."""
    result = module.clone()
    for each in (
        FuseEventsPass(),
        NormalizeEventsPass(),
        LinearizeTasksPass(),
        ScheduleTasksPass(workers=workers),
        VerifySchedulePass(),
    ):
        each.apply(Context(), result)
    return result


def bits(module: ModuleOp, seed: int) -> dict[str, bytes]:
    """The outputs of two steps whose workers play in some order."""
    rng = np.random.default_rng(1)
    weights: dict[str, np.ndarray] = {}
    inputs: dict[str, np.ndarray] = {}
    for op in module.walk():
        if isinstance(op, task.BufferOp):
            found = {"weight": weights, "input": inputs}.get(op.kind.data.value)
            if found is not None:
                shape = task.memref_type_of(op.result).get_shape()
                found[op.sym.data] = rng.standard_normal(shape).astype(np.float32)
    outputs = EventProgram(module, weights).run({}, inputs, 0, steps=2, seed=seed).outputs
    return {name: value.tobytes() for name, value in outputs.items()}


def waits(module: ModuleOp) -> dict[str, tuple[object, object]]:
    """What every family waits for and signals."""
    return {family.name: (family.op.waits, family.op.signals) for family in families_of(module)}


@given(text=steps(), workers=st.integers(1, 4), seed=st.integers(0, 99))
@settings(suppress_health_check=list(HealthCheck), max_examples=40)
def test_sharing_changes_no_bit(text: str, workers: int, seed: int) -> None:
    """In program order and in any other that events allow; in order of data nobody waits longer."""
    alone, events = lowered(text, workers, "none")
    wanted = bits(scheduled(events, workers), seed)
    for order in ("data", "program"):
        shared, with_events = lowered(text, workers, order)
        check_live_values(alone, shared)
        assert bits(with_events, seed) == wanted
        assert bits(scheduled(with_events, workers), seed) == wanted
        if order == "data":
            assert waits(with_events) == waits(events)


def check_live_values(alone: ModuleOp, shared: ModuleOp) -> None:
    """Every element that a task reads holds the value that had this buffer to itself before."""
    owner: dict[task.BufferOp, np.ndarray] = {}
    for before, after in zip(families_of(alone), families_of(shared), strict=True):
        pairs = list(zip(before.accesses, after.accesses, strict=True))
        for value, access in sorted(pairs, key=lambda pair: pair[1].is_write):
            if access.buffer.kind.data is not task.BufferKind.SCRATCH:
                assert value.buffer.sym.data == access.buffer.sym.data
                continue
            count = prod(task.memref_type_of(access.buffer.result).get_shape())
            held = owner.setdefault(access.buffer, np.full(count, -1))
            view = as_strided(
                held[access.offset :], access.shape, tuple(8 * s for s in access.strides)
            )
            for box in slices(after, access):
                if access.is_write:
                    view[box] = id(value.buffer)
                else:
                    assert (view[box] == id(value.buffer)).all()


def slices(family: Family, access: Access) -> list[tuple[slice, ...]]:
    return [
        tuple(slice(a, a + n) for a, n in zip(offsets, access.box.shape, strict=True))
        for offsets in map(access.box.offsets_at, map(family.op.coordinates, range(family.size)))
    ]


@given(text=steps(), workers=st.integers(1, 4))
@settings(suppress_health_check=list(HealthCheck), max_examples=40)
def test_precedence_is_that_of_tasks(text: str, workers: int) -> None:
    """Whatever family is said to be over before another, each of its tasks is before each of it."""
    module, _ = lowered(text, workers, "none")
    families = families_of(module)
    offsets = np.cumsum([0, *(family.size for family in families)])
    before = np.zeros((offsets[-1], offsets[-1]), bool)
    touched: list[tuple[set[tuple[str, int]], set[tuple[str, int]]]] = []
    for family in families:
        for index in range(family.size):
            touched.append((elements(family, index, False), elements(family, index, True)))
    for b, (reads, writes) in enumerate(touched):
        for a in range(b):
            if touched[a][1] & (reads | writes) or touched[a][0] & writes:
                before[a, b] = True
                before[:, b] |= before[:, a]
    precedence = precedence_of(families)
    for a in families:
        for b in families:
            if precedence.after[a.number] >> b.number & 1:
                tasks = before[
                    offsets[a.number] : offsets[a.number + 1],
                    offsets[b.number] : offsets[b.number + 1],
                ]
                assert tasks.all(), (a.name, b.name)


def elements(family: Family, index: int, is_write: bool) -> set[tuple[str, int]]:
    """The elements of buffers that one task touches."""
    found: set[tuple[str, int]] = set()
    for access in family.accesses:
        if access.is_write is not is_write:
            continue
        count = prod(task.memref_type_of(access.buffer.result).get_shape())
        numbers = np.arange(count)[access.offset :]
        view = as_strided(numbers, access.shape, tuple(8 * s for s in access.strides))
        begin = access.box.offsets_at(family.op.coordinates(index))
        box = tuple(slice(a, a + n) for a, n in zip(begin, access.box.shape, strict=True))
        found |= {(access.buffer.sym.data, int(number)) for number in view[box].reshape(-1)}
    return found


CHAIN = """
func.func @step() {
  %x = mpk_tensor.input "x" : tensor<1x64xf32>
  %w = mpk_tensor.weight "w" : tensor<64x64xf32>
  %a = mpk_tensor.linear %x, [%w] : tensor<1x64xf32>, [tensor<64x64xf32>] to tensor<1x64xf32>
  %b = mpk_tensor.linear %a, [%w] : tensor<1x64xf32>, [tensor<64x64xf32>] to tensor<1x64xf32>
  %c = mpk_tensor.linear %b, [%w] : tensor<1x64xf32>, [tensor<64x64xf32>] to tensor<1x64xf32>
  %d = mpk_tensor.linear %c, [%w] : tensor<1x64xf32>, [tensor<64x64xf32>] to tensor<1x64xf32>
  %e = mpk_tensor.linear %d, [%w] : tensor<1x64xf32>, [tensor<64x64xf32>] to tensor<1x64xf32>
  mpk_tensor.output "e", %e : tensor<1x64xf32>
  func.return
}
"""


@pytest.mark.parametrize(
    ("order", "bytes"), [("none", 4 * 256), ("data", 2 * 256), ("program", 2 * 256)]
)
def test_a_chain_needs_two_buffers(order: str, bytes: int) -> None:
    module, _ = lowered(CHAIN, 4, order)
    assert counts(module) == {"unshared": 4 * 256, "live": 2 * 256, "planned": bytes}
    assert scratch_bytes(module) == bytes


def counts(module: ModuleOp) -> dict[str, int]:
    found = module.attributes[ACTIVATIONS]
    return {
        name: number.value.data
        for name, number in found.data.items()
        if isinstance(number, IntegerAttr)
    }


def scratch_bytes(module: ModuleOp) -> int:
    return sum(
        4 * prod(task.memref_type_of(op.result).get_shape())
        for op in module.walk()
        if isinstance(op, task.BufferOp) and op.kind.data is task.BufferKind.SCRATCH
    )


def test_a_budget_asks_for_program_order(run) -> None:
    """Two chains side by side: data orders nothing between them, the program does."""
    text = """
func.func @step() {
  %x = mpk_tensor.input "x" : tensor<1x64xf32>
  %w = mpk_tensor.weight "w" : tensor<64x64xf32>
  %a = mpk_tensor.linear %x, [%w] : tensor<1x64xf32>, [tensor<64x64xf32>] to tensor<1x64xf32>
  %b = mpk_tensor.linear %a, [%w] : tensor<1x64xf32>, [tensor<64x64xf32>] to tensor<1x64xf32>
  %c = mpk_tensor.linear %x, [%w] : tensor<1x64xf32>, [tensor<64x64xf32>] to tensor<1x64xf32>
  %d = mpk_tensor.linear %c, [%w] : tensor<1x64xf32>, [tensor<64x64xf32>] to tensor<1x64xf32>
  mpk_tensor.output "b", %b : tensor<1x64xf32>
  mpk_tensor.output "d", %d : tensor<1x64xf32>
  func.return
}
"""
    for options, planned in (("", 512), ("{budget=512}", 512), ("{budget=256}", 256)):
        module = run(text, f"mpk-partition-tiles,mpk-plan-memory{options}")
        assert counts(module)["planned"] == planned


def test_what_a_step_leaves_to_the_next_is_not_shared(run) -> None:
    """`left` is read before it is written: it holds what the step before has put there."""
    region = "#mpk_task.region<affine_map<(d0) -> (0)>, [4]>"

    def grid(name: str, reads: str, writes: str) -> str:
        return (
            f"mpk_task.grid @{name} [1] reads(%{reads} : memref<4xf32>) writes(%{writes} : "
            f"memref<4xf32>) boxes [{region}, {region}] {{\n^bb0(%0 : tensor<4xf32>):\n"
            "mpk_task.yield %0 : tensor<4xf32>\n}\n"
        )

    text = (
        "func.func @step() {\n"
        '%x = mpk_task.buffer input "x" : memref<4xf32>\n'
        '%y = mpk_task.buffer output "y" : memref<4xf32>\n'
        + "".join(
            f'%{name} = mpk_task.buffer scratch "{name}" : memref<4xf32>\n'
            for name in ("left", "a", "b", "c")
        )
        + grid("old", "left", "y")
        + grid("new", "x", "left")
        + grid("first", "x", "a")
        + grid("second", "a", "b")
        + grid("third", "b", "c")
        + grid("fourth", "c", "y")
        + "func.return\n}\n"
    )
    module = run(text, "mpk-plan-memory{order=program}")
    kept = [op.sym.data for op in module.walk() if isinstance(op, task.BufferOp)]
    assert sorted(kept) == ["activations.0", "b", "left", "x", "y"]


def planned_bytes(machine: Machine, layers: int) -> dict[str, int]:
    """What `activation_bytes` says of a model with Qwen3-8B's widths."""
    config = Qwen3Config(
        vocab_size=4096,
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
    )
    module = decode_step(model_from_config(config), 1024)
    for each in stages(machine):
        each.apply(context(), module)
        if isinstance(each, PlanMemoryPass):
            break
    return activation_bytes(module)


def test_memory_does_not_grow_with_layers() -> None:
    """Two layers take what 36 take, far below 2 MB; unshared, it doubles."""
    machine = replace(machine_named("h100"), handoffs=("counter",))
    few, many = planned_bytes(machine, 2), planned_bytes(machine, 4)
    assert few["activation_bytes"] == many["activation_bytes"] < 400_000
    assert many["activation_bytes_unshared"] > 1.8 * few["activation_bytes_unshared"]


def test_flagged_memory_is_not_shared() -> None:
    """Every element is written once a step, so each layer has its own: in words of twice the size,
    and far smaller than its weights."""
    machine = machine_named("h100")
    few, many = planned_bytes(machine, 2), planned_bytes(machine, 4)
    assert many["activation_bytes"] == many["activation_bytes_unshared"]
    assert many["activation_bytes"] - few["activation_bytes"] < 2 * 800_000
