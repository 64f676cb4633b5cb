"""Names -> dialects, passes, targets; each is imported when it is first asked for.

Third parties add theirs by an entry point in the group `xdsl.universe`, as this package does
itself.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
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
    "mpk-fuse-operators": "mpkir.passes.fuse_operators:FuseOperatorsPass",
    "mpk-widen-activations": "mpkir.passes.widen_activations:WidenActivationsPass",
    "mpk-split-reductions": "mpkir.passes.split_reductions:SplitReductionsPass",
    "mpk-partition-tiles": "mpkir.passes.partition_tiles:PartitionTilesPass",
    "mpk-lower-dependencies": "mpkir.passes.lower_dependencies:LowerDependenciesPass",
    "mpk-fuse-events": "mpkir.passes.fuse_events:FuseEventsPass",
    "mpk-normalize-events": "mpkir.passes.normalize_events:NormalizeEventsPass",
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
    "round-robin": "mpkir.passes.scheduling.round_robin:RoundRobin",
}


def _loader(path: str) -> Callable[[], Any]:
    module, name = path.split(":")
    return lambda: getattr(import_module(module), name)


class MpkirUniverse(Universe):
    """A universe that also has scheduling policies (`mpkir.passes.scheduling.policy.Policy`)."""

    def __init__(self, *, all_schedulers: dict[str, Callable[[], Any]], **rest: Any) -> None:
        super().__init__(**rest)
        self.all_schedulers = all_schedulers


UNIVERSE = MpkirUniverse(
    all_dialects={name: _loader(path) for name, path in _DIALECTS.items()},
    all_passes={name: _loader(path) for name, path in _PASSES.items()},
    all_targets={name: _loader(path) for name, path in _TARGETS.items()},
    all_schedulers={name: _loader(path) for name, path in _SCHEDULERS.items()},
)
