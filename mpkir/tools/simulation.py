"""`mpk simulate`: a step as the machine model would run it, and beside a trace of one that ran."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table as RichTable
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from mpkir.analysis.critical_path import path_by_operator
from mpkir.analysis.exchange_times import kept_home
from mpkir.analysis.families import Ints
from mpkir.analysis.operators import advances, by_operator, operator_of
from mpkir.analysis.plan import Executed, Plan, plan_of
from mpkir.analysis.simulator import Simulation, play
from mpkir.analysis.task_times import Floats, total_bytes
from mpkir.dialects import task
from mpkir.dialects.mesh import ranks_of
from mpkir.errors import MpkirError
from mpkir.machine import Machine, machine_named
from mpkir.passes.schedule_tasks import ScheduleTasksPass
from mpkir.pipeline import context, lower
from mpkir.progress import Progress
from mpkir.runtime.artifact import load_artifact
from mpkir.runtime.recording import MARKS, Recording
from mpkir.runtime.table import Table, TaskField
from mpkir.tools.sources import module_of

DEFAULT_POLICY = "round-robin"


def scheduled_module(
    source: str,
    machine: Machine,
    policy: str | None,
    capacity: int | None,
    ranks: int,
    progress: Progress,
) -> ModuleOp:
    """The module to play: as it stands if it has a schedule and no policy is asked for, else taken
    through the pipeline (for so many ranks), or scheduled anew. Raises MpkirError.
    """
    with progress.stage("import the model"):
        module = module_of(source, capacity).module
    grids = [op for op in module.walk() if isinstance(op, task.GridOp)]
    schedule = ScheduleTasksPass(
        workers=machine.workers, machine=machine.name, policy=policy or DEFAULT_POLICY
    )
    if grids and ranks not in (1, ranks_of(module)):
        raise MpkirError(
            f"its tasks are those of {ranks_of(module)} ranks already, and {ranks} were asked for",
            where=source,
            hint="give the model that they were compiled from",
        )
    if grids and all(op.workers is not None or "dynamic" in op.properties for op in grids):
        stages: tuple[ModulePass, ...] = () if policy is None else (schedule,)
    elif grids:
        stages = (schedule,)
    else:
        with progress.stage("compile"):
            lower(module, machine, policy=policy or DEFAULT_POLICY, tp=ranks)
        return module
    for stage in stages:
        with progress.stage("schedule"):
            stage.apply(context(), module)
    return module


def run(
    source: str,
    target: str,
    *,
    workers: int | None = None,
    capacity: int | None = None,
    policy: str | None = None,
    position: int | None = None,
    artifact: Path | None = None,
    trace: Path | None = None,
    ranks: int = 1,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], tuple[RichTable, ...]]:
    """Play what `source` names; the facts, and tables of them.

    target: a machine's name or the file of its model; artifact: whose table to play, compiled from
    the same source; trace: a traced step of it; ranks: for how many to compile
    """
    if trace is not None and artifact is None:
        raise MpkirError("a trace is of an artifact's table", hint="give --artifact, too")
    stages = progress or Progress()
    machine = machine_named(target, workers=workers)
    module = scheduled_module(source, machine, policy, capacity, ranks, stages)
    with stages.stage("simulate"):
        plan = plan_of(module, machine, position)
        rows = np.arange(plan.graph.tasks)
        if artifact is not None:
            plan, rows = plan_of_table(plan, load_artifact(artifact).table)
        played = play(plan)
    found = {"source": source, "position": position, **facts(played)}
    shown = [*tables(found)]
    if trace is not None:
        found["trace"] = compare(played, rows, read_trace(trace))
        shown.append(comparison_table(found["trace"]))
    return found, tuple(shown)


def plan_of_table(plan: Plan, table: Table) -> tuple[Plan, Ints]:
    """The plan as an artifact's table has it, and the task (in linear order) of each of its rows.

    Raises MpkirError if the table is of another program.
    """
    rows = table.tasks.astype(np.int64)
    sizes = np.array([family.size for family in plan.graph.families], np.int64)
    same = len(rows) == plan.graph.tasks and np.array_equal(sizes, table.families[:, 1])
    if not same or not np.array_equal(table.events, plan.graph.arrivals):
        raise MpkirError(
            "the artifact's families and events are not the module's",
            hint="compile both from the same source by the same version",
        )
    number = plan.graph.offsets[rows[:, TaskField.FAMILY]] + rows[:, TaskField.INDEX]
    counts = np.diff(table.workers)
    placed = int(table.workers[-1])
    worker = np.concatenate([np.repeat(np.arange(len(counts)), counts), np.full(len(rows), -1)])
    slot = np.arange(len(rows))
    slot[:placed] -= np.repeat(table.workers[:-1], counts)

    def column(values: Ints) -> Ints:
        result = np.zeros(len(rows), np.int64)
        result[number] = values
        return result

    executed = Executed(
        column(rows[:, TaskField.WAIT_EVENT]),
        column(rows[:, TaskField.WAIT_LAG]),
        column(rows[:, TaskField.SIGNAL_EVENT]),
        column(rows[:, TaskField.SIGNAL_AMOUNT]),
    )
    placed_plan = replace(
        plan,
        workers=len(counts),
        worker=column(worker[: len(rows)]),
        slot=column(slot),
        executed=executed,
    )
    return placed_plan, number


# ---- what is said of it ----


def facts(played: Simulation) -> dict[str, Any]:
    """A simulation as numbers; microseconds, bytes."""
    plan = played.plan
    busy = np.zeros(plan.workers)
    starved = np.zeros(plan.workers)
    np.add.at(busy, played.worker, played.busy)
    np.add.at(starved, played.worker, played.starved)
    size = total_bytes(plan.costs)
    step = max(played.step, 1e-9)
    added = by_operator(plan.graph.families, advances(played.end, plan.graph.offsets))
    tasks: dict[str, int] = {}
    for family in plan.graph.families:
        tasks[operator_of(family)] = tasks.get(operator_of(family), 0) + family.size
    return {
        "machine": plan.machine.name,
        "ranks": plan.ranks,
        "workers": plan.workers,
        "tasks": plan.graph.tasks,
        "step_us": round(played.step, 2),
        "floor_us": round(played.floor, 2),
        "exposed_us": round(exposed(played), 2),
        "bytes": size,
        "bandwidth_gb_s": round(size / step / 1e3, 1),
        "share_of_floor": round(played.floor / step, 4),
        "busy": _spread(busy / step),
        "starved": _spread(starved / step),
        "idle": _spread(1 - (busy + starved) / step),
        "idle_by_worker": np.round(1 - (busy + starved) / step, 4).tolist(),
        "operators": {
            name: {"tasks": tasks[name], "added_us": round(value, 2)}
            for name, value in added.items()
        },
        "critical_path": {
            name: {
                "tasks": each.tasks,
                "us": round(each.time, 2),
                "handoff_us": round(each.handoff, 2),
                "starved_us": round(each.starved, 2),
            }
            for name, each in path_by_operator(played).items()
        },
    }


def exposed(played: Simulation) -> float:
    """Microseconds that a step takes less when ranks keep home what they would send to others."""
    plan = played.plan
    if plan.ranks == 1:
        return 0.0
    return played.step - play(replace(plan, machine=kept_home(plan.machine))).step


def _spread(values: Floats) -> dict[str, float]:
    return {
        "least": round(float(values.min()), 4),
        "mean": round(float(values.mean()), 4),
        "most": round(float(values.max()), 4),
    }


def tables(found: dict[str, Any]) -> Iterator[RichTable]:
    """The facts of a simulation as tables."""
    head = RichTable("what", "value", title="simulated step")
    head.add_row("machine", f"{found['machine']}, {found['workers']} workers")
    if found["ranks"] > 1:
        exposed = f"{found['exposed_us']:,} us of the step wait for the others"
        head.add_row("ranks", f"one of {found['ranks']}; {exposed}")
    head.add_row("tasks", f"{found['tasks']:,}")
    head.add_row("time", f"{found['step_us']:,} us")
    head.add_row("floor", f"{found['floor_us']:,} us for {found['bytes'] / 1e6:,.1f} MB")
    share = f"{found['share_of_floor']:.1%} of the floor"
    head.add_row("bandwidth", f"{found['bandwidth_gb_s']:,} GB/s, {share}")
    for what, text in (
        ("busy", "workers compute"),
        ("starved", "wait for weights"),
        ("idle", "wait for events"),
    ):
        each = found[what]
        head.add_row(text, f"{each['least']:.1%} to {each['most']:.1%}, mean {each['mean']:.1%}")
    yield head
    columns = ("tasks", "adds us", "path", "us", "hand-off", "starved")
    table = _by_operator("operators", *columns)
    for name, each in found["operators"].items():
        link = found["critical_path"].get(name)
        path = (
            ("", "", "", "")
            if link is None
            else (link["tasks"], link["us"], link["handoff_us"], link["starved_us"])
        )
        table.add_row(name, str(each["tasks"]), f"{each['added_us']:,}", *map(str, path))
    yield table


def _by_operator(title: str, *columns: str) -> RichTable:
    table = RichTable(title=title)
    table.add_column("operator", overflow="fold", min_width=20)
    for column in columns:
        table.add_column(column, justify="right")
    return table


# ---- beside a measured step ----


def read_trace(path: Path) -> Floats:
    """When each row of a table was done, in microseconds from the first task's start.

    Of the first step that `mpk trace` kept. Raises MpkirError.
    """
    return Recording.load(path).marks[0, :, MARKS.index("done")] / 1e3


def compare(played: Simulation, rows: Ints, done: Floats) -> dict[str, Any]:
    """Microseconds that each operator added, measured and simulated. Both steps count from the
    first task's event.

    rows: the task of each row of the table; done: when it was done
    """
    if len(done) != len(rows):
        raise MpkirError(f"a trace of {len(done)} tasks, the table has {len(rows)}")
    end = np.zeros(len(done))
    end[rows] = done
    graph = played.plan.graph
    simulated = played.end - float(played.ready.min(initial=0.0))
    measured_by = by_operator(graph.families, advances(end, graph.offsets))
    simulated_by = by_operator(graph.families, advances(simulated, graph.offsets))
    whole = float(end.max())
    return {
        "measured_us": round(whole, 2),
        "simulated_us": round(float(simulated.max()), 2),
        "error": round(float(simulated.max()) / whole - 1, 4),
        "operators": {
            name: {
                "measured_us": round(value, 2),
                "simulated_us": round(simulated_by[name], 2),
                "error_of_step": round((simulated_by[name] - value) / whole, 4),
            }
            for name, value in measured_by.items()
        },
    }


def comparison_table(found: dict[str, Any]) -> RichTable:
    """A comparison as a table."""
    columns = ("measured us", "simulated us", "error", "of the step")
    table = _by_operator("beside the trace", *columns)
    for name, each in found["operators"].items():
        measured, simulated = each["measured_us"], each["simulated_us"]
        error = f"{simulated / measured - 1:+.1%}" if measured else ""
        table.add_row(name, f"{measured}", f"{simulated}", error, f"{each['error_of_step']:+.1%}")
    table.add_row(
        "step", str(found["measured_us"]), str(found["simulated_us"]), f"{found['error']:+.1%}", ""
    )
    return table


def write_json(path: Path, found: dict[str, Any]) -> None:
    """Write facts to a file; `-` prints them. MpkirError where it cannot be written."""
    text = json.dumps(found, indent=1) + "\n"
    if str(path) == "-":
        print(text, end="")
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MpkirError(
            f"the file cannot be written ({error.strerror or error})", where=str(path)
        ) from error
