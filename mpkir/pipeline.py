"""The whole way down, as one flat list of passes with the reason for each.

`stages(machine)` is that list; `mpk-pipeline{target=h100}` runs it from the command line;
`lower(module, machine)` runs it for the compiler, telling whoever listens where it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from mpkir.errors import MpkirError
from mpkir.machine import Machine, launched, machine_named
from mpkir.passes.choose_handoffs import ChooseHandoffsPass
from mpkir.passes.eliminate_dependencies import EliminateDependenciesPass
from mpkir.passes.fuse_events import FuseEventsPass
from mpkir.passes.fuse_operators import FuseOperatorsPass
from mpkir.passes.join_linears import JoinLinearsPass
from mpkir.passes.launch_families import LaunchFamiliesPass
from mpkir.passes.lay_out_flags import LayOutFlagsPass
from mpkir.passes.linearize_tasks import LinearizeTasksPass
from mpkir.passes.lower_dependencies import LowerDependenciesPass
from mpkir.passes.merge_events import MergeEventsPass
from mpkir.passes.normalize_events import NormalizeEventsPass
from mpkir.passes.partition_tiles import PartitionTilesPass
from mpkir.passes.pipeline_tasks import PipelineTasksPass
from mpkir.passes.plan_memory import PlanMemoryPass
from mpkir.passes.raise_operators import RaiseOperatorsPass
from mpkir.passes.schedule_tasks import ScheduleTasksPass
from mpkir.passes.shard import ShardPass
from mpkir.passes.split_reductions import SplitReductionsPass
from mpkir.passes.verify_schedule import VerifySchedulePass
from mpkir.passes.widen_activations import WidenActivationsPass
from mpkir.registry import named
from mpkir.registry import stages as stages_of_plugins
from mpkir.variant import DEFAULT, Variant

POLICY = "round-robin"
"""Who schedules the tasks where the user does not say."""

_PLACING = ("round-robin", "list")
"""Policies that give every task its worker, so that nobody looks for a value in front of who writes
it."""


def stages(
    machine: Machine, policy: str = POLICY, variant: Variant = DEFAULT, tp: int = 1
) -> tuple[ModulePass, ...]:
    """The passes from an imported module to a scheduled one, for a machine (which has the
    variant's numbers already), or for `tp` of them together."""
    machine = launched(machine, machine.launch)  # checks that it can
    workers, tiles = machine.workers, machine.tiles
    own = (
        # Tensor level: what the model's author would name, then what streams together.
        RaiseOperatorsPass(),
        # Each of several GPUs its part, before what belongs together is one.
        *((ShardPass(tp=tp, machine=machine.name),) if tp != 1 else ()),
        FuseOperatorsPass(),
        # The residual stream is small beside the weights: fp32 costs nothing and is nearer the
        # truth.
        WidenActivationsPass(),
        # Linears of one x start together, where their start is felt.
        JoinLinearsPass(workers=workers, worker_bytes=tiles.joined_bytes),
        # One worker must not do alone what many can share.
        SplitReductionsPass(
            attention_chunk=tiles.attention_chunk,
            attention_bytes=tiles.attention_bytes,
            attention_joins=tiles.attention_joins,
            attention_tasks=workers if machine.streams else 4 * workers,
            argmax_chunks=tiles.argmax_chunks,
            argmax_best_of=tiles.argmax_best_of,
            argmax_at_once=tiles.argmax_at_once,
        ),
        # Task level: grids of tasks on buffers.
        PartitionTilesPass(
            workers=workers,
            max_rows=tiles.max_rows,
            task_overhead=tiles.task_overhead,
            min_elements=tiles.min_elements,
            row_multiple=tiles.row_multiple,
            max_rows_of_many=tiles.max_rows_of_many,
        ),
        # What a value can say itself needs no event.
        *((ChooseHandoffsPass(),) if _has_flags(machine, policy, variant) else ()),
        # Activations take each other's memory where that makes nobody wait.
        PlanMemoryPass(),
        *(
            (LayOutFlagsPass(panels=machine.block_ring.packed),)
            if _has_flags(machine, policy, variant)
            else ()
        ),
        *(
            _one_kernel_each(machine)
            if machine.launch == "per-operator"
            else _one_kernel(machine, policy)
        ),
    )
    return variant.passes_of(_with_plugins(own))


def _has_flags(machine: Machine, policy: str, variant: Variant) -> bool:
    """Whether tasks may hand over by flagged buffers."""
    for name, option, value in variant.options:
        if (name, option) == (ScheduleTasksPass.name, "policy"):
            policy = str(value)
    placed = machine.launch == "persistent" and policy in _PLACING
    return placed and "flag" in machine.handoffs


def _one_kernel(machine: Machine, policy: str) -> tuple[ModulePass, ...]:
    """The rest of the way to a kernel that stays."""
    return (
        # Event level: who waits for whom, in as few events as that needs, one wait and one signal a
        # task.
        LowerDependenciesPass(),
        FuseEventsPass(),
        MergeEventsPass(),
        EliminateDependenciesPass(),
        NormalizeEventsPass(),
        LinearizeTasksPass(),
        # Weights go through shared memory ahead of the tasks that need them.
        *((_ring_pass(machine),) if machine.streams else ()),
        # A worker and a place for every task; then the proof that the result is safe.
        ScheduleTasksPass(workers=machine.workers, machine=machine.name, policy=policy),
        VerifySchedulePass(),
    )


def _one_kernel_each(machine: Machine) -> tuple[ModulePass, ...]:
    """The rest of the way to a kernel for each family: their order needs no events."""
    return (_ring_pass(machine), LaunchFamiliesPass(workers=machine.workers))


def _with_plugins(own: tuple[ModulePass, ...]) -> tuple[ModulePass, ...]:
    """The same with the passes of plugins where they asked to be."""
    added = stages_of_plugins()
    if not added:
        return own
    if unknown := sorted(added.keys() - {"", *(stage.name for stage in own)}):
        raise MpkirError(
            f"'{added[unknown[0]][0]}' is to follow '{unknown[0]}', which is no pass of the "
            "default pipeline",
            hint=f"its passes are {', '.join(stage.name for stage in own)}",
        )
    passes = named("passes")
    result = [passes[name]()() for name in added.get("", ())]
    for stage in own:
        result += [stage, *(passes[name]()() for name in added.get(stage.name, ()))]
    if not isinstance(result[-1], VerifySchedulePass | LaunchFamiliesPass):
        # What changes after the proof is proven again.
        result.append(own[-1])
    return tuple(result)


def _ring_pass(machine: Machine) -> ModulePass:
    ring = machine.block_ring
    return PipelineTasksPass(
        machine=machine.name,
        slot_bytes=ring.slot_bytes,
        slots=ring.slots,
        in_flight=ring.in_flight,
        pack=ring.packed,
    )


@dataclass(frozen=True)
class PassTiming:
    """How long one pass took, in seconds."""

    name: str
    seconds: float


def context() -> Context:
    """A context that knows every dialect of every installed universe."""
    result = Context()
    for name, factory in named("dialects").items():
        result.register_dialect(name, factory)
    return result


def lower(
    module: ModuleOp,
    machine: Machine,
    *,
    policy: str = POLICY,
    variant: Variant = DEFAULT,
    tp: int = 1,
    on_pass: Callable[[ModulePass], None] = lambda stage: None,
    after_pass: Callable[[ModulePass, ModuleOp], None] = lambda stage, module: None,
) -> tuple[PassTiming, ...]:
    """Run the default pipeline in place, for `tp` ranks; the time of each pass.

    `on_pass` is called before each pass (progress), `after_pass` after it (dumps). The module is
    verified at the end of each level.
    """
    ctx = context()
    timings: list[PassTiming] = []
    for stage in stages(machine, policy, variant, tp):
        on_pass(stage)
        begin = perf_counter()
        stage.apply(ctx, module)
        timings.append(PassTiming(stage.name, perf_counter() - begin))
        if isinstance(stage, SplitReductionsPass | PartitionTilesPass | ScheduleTasksPass):
            module.verify()
        after_pass(stage, module)
    return tuple(timings)


@dataclass(frozen=True)
class DefaultPipelinePass(ModulePass):
    """The default pipeline for a target, e.g. `mpk-pipeline{target=h100}`.

    `workers` overrides the machine's number of SMs or threads, `policy` schedules the tasks,
    `launch=per-operator` makes a kernel of each family instead, `tp` divides the step among ranks.
    """

    name = "mpk-pipeline"

    target: str = "h100"
    workers: int | None = None
    policy: str = POLICY
    launch: str = "persistent"
    tp: int = 1

    def passes(self) -> tuple[ModulePass, ...]:
        """The passes that it runs."""
        machine = machine_named(self.target, workers=self.workers)
        return stages(launched(machine, self.launch), self.policy, tp=self.tp)

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for stage in self.passes():
            stage.apply(ctx, op)


def flattened(passes: Iterable[ModulePass], keep: str | None = None) -> Iterator[ModulePass]:
    """The passes, a default pipeline among them replaced by its own, unless its name is `keep`."""
    for stage in passes:
        if isinstance(stage, DefaultPipelinePass) and stage.name != keep:
            yield from stage.passes()
        else:
            yield stage
