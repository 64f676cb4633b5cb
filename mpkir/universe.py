"""Names -> dialects, passes, targets, schedulers, ..; each is imported when it is first asked for.

Third parties add theirs by an entry point in the group `xdsl.universe`, as this package does
itself, or in a file (`--load-plugin`); docs/extending.md walks through both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from xdsl.universe import Universe

_DIALECTS = {
    "mpk_tensor": "mpkir.dialects.tensor:Tensor",
    "mpk_task": "mpkir.dialects.task:Task",
    "mpk_event": "mpkir.dialects.event:Event",
}

_PASSES = {
    "mpk-raise": "mpkir.passes.raise_operators:RaiseOperatorsPass",
    "mpk-canonicalize-views": "mpkir.passes.canonicalize_views:CanonicalizeViewsPass",
    "mpk-shard": "mpkir.passes.shard:ShardPass",
    "mpk-fuse-operators": "mpkir.passes.fuse_operators:FuseOperatorsPass",
    "mpk-widen-activations": "mpkir.passes.widen_activations:WidenActivationsPass",
    "mpk-join-linears": "mpkir.passes.join_linears:JoinLinearsPass",
    "mpk-split-reductions": "mpkir.passes.split_reductions:SplitReductionsPass",
    "mpk-partition-tiles": "mpkir.passes.partition_tiles:PartitionTilesPass",
    "mpk-choose-handoffs": "mpkir.passes.choose_handoffs:ChooseHandoffsPass",
    "mpk-plan-memory": "mpkir.passes.plan_memory:PlanMemoryPass",
    "mpk-lay-out-flags": "mpkir.passes.lay_out_flags:LayOutFlagsPass",
    "mpk-lower-dependencies": "mpkir.passes.lower_dependencies:LowerDependenciesPass",
    "mpk-fuse-events": "mpkir.passes.fuse_events:FuseEventsPass",
    "mpk-merge-events": "mpkir.passes.merge_events:MergeEventsPass",
    "mpk-eliminate-dependencies": ("mpkir.passes.eliminate_dependencies:EliminateDependenciesPass"),
    "mpk-normalize-events": "mpkir.passes.normalize_events:NormalizeEventsPass",
    "mpk-launch-families": "mpkir.passes.launch_families:LaunchFamiliesPass",
    "mpk-linearize-tasks": "mpkir.passes.linearize_tasks:LinearizeTasksPass",
    "mpk-pipeline-tasks": "mpkir.passes.pipeline_tasks:PipelineTasksPass",
    "mpk-schedule-tasks": "mpkir.passes.schedule_tasks:ScheduleTasksPass",
    "mpk-verify-schedule": "mpkir.passes.verify_schedule:VerifySchedulePass",
    "mpk-pipeline": "mpkir.pipeline:DefaultPipelinePass",
}

_TARGETS = {
    "mpk-cuda": "mpkir.backends.cuda.target:CudaTarget",
    "mpk-cpu": "mpkir.backends.cpu.target:CpuTarget",
    "mpk-table": "mpkir.backends.table_target:TableTarget",
}

_SCHEDULERS = {
    "dynamic": "mpkir.passes.scheduling.dynamic:DynamicPolicy",
    "hybrid": "mpkir.passes.scheduling.hybrid:Hybrid",
    "list": "mpkir.passes.scheduling.list_schedule:ListSchedule",
    "round-robin": "mpkir.passes.scheduling.round_robin:RoundRobin",
}


_BACKENDS = {
    "cpu": "mpkir.builders:CpuBuilder",
    "cuda": "mpkir.builders:CudaBuilder",
}

Loader = str | Callable[[], Any]
"""What gives a thing when it is first asked for: "module:name", or a function."""


def _loaders(named: Mapping[str, Loader]) -> dict[str, Callable[[], Any]]:
    return {name: _loader(it) if isinstance(it, str) else it for name, it in named.items()}


def _loader(path: str) -> Callable[[], Any]:
    module, _, name = path.partition(":")
    return lambda: getattr(import_module(module), name)


class MpkirUniverse(Universe):
    """What one package, or one file, adds to mpkir; all of it by name, nothing imported yet.

    all_dialects    xDSL dialects
    all_passes      pass types
    all_targets     what `mpk-opt -t` prints
    all_schedulers  policies of mpk-schedule-tasks (`mpkir.passes.scheduling.policy.Policy`)
    all_machines    files of machine models (`mpkir/machines/*.json`): targets to compile for
    all_backends    who prints and builds the code for a machine (`mpkir.builders.Builder`)
    all_operators   tables of functions by operator ("tilings", "shardings", "kernels", "cpu",
                    "cuda", "cuda-elements", "lowerings") -> the module that registers functions in
                    it
    all_stages      passes that join the default pipeline -> the pass of it that each follows, or
                    "" for those that come first
    include         directories of C++ and CUDA headers for what its operators print
    """

    def __init__(
        self,
        *,
        all_dialects: Mapping[str, Loader] = {},
        all_passes: Mapping[str, Loader] = {},
        all_targets: Mapping[str, Loader] = {},
        all_schedulers: Mapping[str, Loader] = {},
        all_machines: Mapping[str, Path] = {},
        all_backends: Mapping[str, Loader] = {},
        all_operators: Mapping[str, str] = {},
        all_stages: Mapping[str, str] = {},
        include: Sequence[Path] = (),
    ) -> None:
        super().__init__(
            all_dialects=_loaders(all_dialects),
            all_passes=_loaders(all_passes),
            all_targets=_loaders(all_targets),
        )
        self.all_schedulers = _loaders(all_schedulers)
        self.all_machines = {name: lambda path=path: path for name, path in all_machines.items()}
        self.all_backends = _loaders(all_backends)
        self.all_operators = dict(all_operators)
        self.all_stages = dict(all_stages)
        self.include = tuple(include)


UNIVERSE = MpkirUniverse(
    all_dialects=_DIALECTS,
    all_passes=_PASSES,
    all_targets=_TARGETS,
    all_schedulers=_SCHEDULERS,
    all_backends=_BACKENDS,
)
