"""Random programs whose activations are partly flagged: their order through every pass, proven and
played.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, UnitAttr
from xdsl.parser import Parser

from mpkir.backends.interpreter.atoms import Atoms
from mpkir.backends.interpreter.families import families_of
from mpkir.backends.interpreter.symbolic import Shapes, SymbolicProgram
from mpkir.dialects import event, task
from mpkir.errors import MpkirError
from mpkir.passes.eliminate_dependencies import EliminateDependenciesPass
from mpkir.passes.fuse_events import FuseEventsPass
from mpkir.passes.linearize_tasks import LinearizeTasksPass
from mpkir.passes.lower_dependencies import LowerDependenciesPass
from mpkir.passes.merge_events import MergeEventsPass
from mpkir.passes.normalize_events import NormalizeEventsPass
from mpkir.passes.plan_memory import PlanMemoryPass
from mpkir.passes.schedule_tasks import ScheduleTasksPass
from mpkir.passes.verify_schedule import VerifySchedulePass
from mpkir.pipeline import context

SIZE = 48
TILES = [1, 2, 3, 4, 6, 12]
EVENTS = (
    PlanMemoryPass(),
    LowerDependenciesPass(),
    FuseEventsPass(),
    MergeEventsPass(),
    EliminateDependenciesPass(),
    NormalizeEventsPass(),
    LinearizeTasksPass(),
)


@st.composite
def programs(draw: st.DrawFn) -> str:
    """Families of copies, each of which writes a buffer in tiles and reads some before: whole, its
    own tile, or that and what is beside it. A state is read early and written late.
    """
    count = draw(st.integers(2, 6))
    type = f"memref<{SIZE}xf32>"
    lines = [f'%s = mpk_task.buffer state "s" : {type}']
    for number in range(count):
        tasks = draw(st.sampled_from(TILES))
        rows = SIZE // tasks
        is_last = number == count - 1
        target = "%s" if is_last and draw(st.booleans()) else f"%b{number}"
        earlier = [f"%b{i}" for i in range(number)]
        # Who writes the state in tiles does not read others' parts of it.
        known = earlier if target == "%s" else [*earlier, "%s"]
        reads = draw(st.lists(st.sampled_from(known), max_size=3, unique=True))
        if is_last:
            reads = reads or [earlier[-1]]
        boxes: list[tuple[str, int]] = []
        for _ in reads:
            boxes.append(
                draw(
                    st.sampled_from(
                        [("0", SIZE), (f"d0 * {rows}", rows), (f"d0 * {rows}", 2 * rows)]
                    )
                )
            )
        kind = "output" if is_last else "scratch"
        flag = " flagged" if not is_last and draw(st.booleans()) else ""
        lines.append(f'%b{number} = mpk_task.buffer {kind} "b{number}"{flag} : {type}')
        lines.append(_family(number, tasks, list(zip(reads, boxes, strict=True)), target, rows))
    text = "\n".join(lines)
    return f"func.func @step() {{\n{text}\nfunc.return\n}}"


def _family(
    number: int, tasks: int, reads: list[tuple[str, tuple[str, int]]], target: str, rows: int
) -> str:
    type = f"memref<{SIZE}xf32>"
    boxes = [
        f"#mpk_task.region<affine_map<(d0) -> ({offset})>, [{min(size, SIZE)}]>"
        for offset, size in [*(box for _, box in reads), (f"d0 * {rows}", rows)]
    ]
    names, types = ", ".join(name for name, _ in reads), ", ".join(type for _ in reads)
    arguments = ", ".join(
        f"%a{number}_{i} : tensor<{min(size, SIZE)}xf32>" for i, (_, (_, size)) in enumerate(reads)
    )
    clause = f"reads({names} : {types})" if reads else ""
    head = f"^bb0({arguments}):" if reads else ""
    return f"""
      mpk_task.grid @f{number} [{tasks}] {clause} writes({target} : {type})
          boxes [{", ".join(boxes)}] {{
      {head}
        %v{number} = mpk_tensor.full 1.0 : f32 : tensor<{rows}xf32>
        mpk_task.yield %v{number} : tensor<{rows}xf32>
      }}"""


def scheduled(text: str, workers: int, policy: str) -> ModuleOp:
    module = Parser(context(), text).parse_module()
    module.verify()
    for stage in (*EVENTS, ScheduleTasksPass(workers=workers, policy=policy)):
        stage.apply(Context(), module)
    return module


def play(module: ModuleOp, seed: int) -> None:
    families = families_of(module, Shapes(module))
    program = SymbolicProgram(module, families, Atoms(families))
    program.check(program.orders([seed, seed + 1]))


@given(programs(), st.integers(1, 5), st.sampled_from(["round-robin", "list"]), st.integers(0, 99))
@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=40)
def test_order_is_kept_proven_and_played(text: str, workers: int, policy: str, seed: int) -> None:
    module = scheduled(text, workers, policy)
    VerifySchedulePass().apply(Context(), module)
    play(module, seed)


@given(programs(), st.integers(2, 5), st.data())
@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=40)
def test_what_the_proof_accepts_can_be_played(text: str, workers: int, data: st.DataObject) -> None:
    """With a wait or a signal less, or a flag more: refused, or right in every order."""
    module = scheduled(text, workers, "round-robin")
    grids = [op for op in module.walk() if isinstance(op, task.GridOp)]
    buffers = [
        op
        for op in module.walk()
        if isinstance(op, task.BufferOp) and op.kind.data is task.BufferKind.SCRATCH
    ]
    if buffers and data.draw(st.booleans()):
        data.draw(st.sampled_from(buffers)).flagged = UnitAttr()
    else:
        data.draw(st.sampled_from(grids)).waits = None
    try:
        VerifySchedulePass().apply(Context(), module)
    except MpkirError:
        return
    play(module, 0)


def test_no_events_where_all_is_flagged() -> None:
    text = "\n".join(
        [
            f'%s = mpk_task.buffer state "s" : memref<{SIZE}xf32>',
            f'%b0 = mpk_task.buffer scratch "b0" flagged : memref<{SIZE}xf32>',
            f'%b1 = mpk_task.buffer scratch "b1" flagged : memref<{SIZE}xf32>',
            _family(0, 3, [("%s", ("0", SIZE))], "%b0", 16),
            _family(1, 4, [("%b0", ("0", SIZE))], "%b1", 12),
            _family(2, 2, [("%b1", ("d0 * 24", 24))], "%s", 24),
        ]
    )
    module = scheduled(f"func.func @step() {{\n{text}\nfunc.return\n}}", 2, "round-robin")
    (end,) = [op for op in module.walk() if isinstance(op, event.TensorOp)]
    assert end.arrivals_of_each == (2,)
    VerifySchedulePass().apply(Context(), module)


def test_first_tasks_wait_for_the_end_of_the_step_before() -> None:
    text = "\n".join(
        [
            f'%b0 = mpk_task.buffer scratch "b0" flagged : memref<{SIZE}xf32>',
            f'%b1 = mpk_task.buffer output "b1" : memref<{SIZE}xf32>',
            _family(0, 1, [], "%b0", SIZE),
            _family(1, 2, [("%b0", ("0", SIZE))], "%b1", 24),
        ]
    )
    module = scheduled(f"func.func @step() {{\n{text}\nfunc.return\n}}", 2, "round-robin")
    grids = [op for op in module.walk() if isinstance(op, task.GridOp)]
    grids[1].waits = None
    with pytest.raises(MpkirError, match=r"worker [01] may begin a step that must not run: f1\["):
        VerifySchedulePass().apply(Context(), module)
