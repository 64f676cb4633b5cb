"""`--timing`: where the time of a compilation goes, stage by stage."""

from __future__ import annotations

import resource
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from time import perf_counter

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from mpkir.progress import Progress


@dataclass
class Timing:
    """Stages and their seconds, in the order in which they ended."""

    rows: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])

    def add(self, stage: str, seconds: float) -> None:
        """Note a stage."""
        self.rows.append((stage, seconds))

    def watch(self, progress: Progress) -> Progress:
        """The same progress, with every stage noted here too."""

        def end(stage: str, seconds: float) -> None:
            self.add(stage, seconds)
            progress.end(stage, seconds)

        return Progress(progress.begin, end)

    def passes(self, passes: Iterable[ModulePass]) -> Iterator[ModulePass]:
        """The same passes, each noted here when it has run."""
        return (TimedPass(each, self) for each in passes)

    def lines(self) -> list[str]:
        """Milliseconds, share and name of every stage, the sum, and the peak of memory in use."""
        total = sum(seconds for _, seconds in self.rows)
        lines = [
            f"{seconds * 1e3:10.1f} ms {100 * seconds / (total or 1):5.1f} %  {stage}"
            for stage, seconds in self.rows
        ]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return [*lines, f"{total * 1e3:10.1f} ms          in all, peak memory {peak:.0f} MiB"]


@dataclass(frozen=True)
class TimedPass(ModulePass):
    """A pass that notes how long it took."""

    inner: ModulePass
    timing: Timing

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.name

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        begun = perf_counter()
        self.inner.apply(ctx, op)
        self.timing.add(self.name, perf_counter() - begun)
