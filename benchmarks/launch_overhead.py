"""Where the time of a launch goes that its steps do not take, on a GPU.

    python benchmarks/compile_artifacts.py --traced MODEL             # anywhere
    python benchmarks/launch_overhead.py --artifacts build/h100 MODEL .. [--json FILE]

Weights are random. Needs neither xDSL nor a compiler. All of it in microseconds, medians (least):

  step      what each further step of a launch adds
  launch    of one step, beyond that: what `mpk bench` calls launch_us. It is
  empty     a launch of no step: host, way to the GPU, start and end of the kernel, way back
    enqueue   of that, until the driver has it
    gpu       of that, between events before and behind the kernel
  surplus   and what the first step of a launch takes longer than later ones

Launches of one step are repeated behind pauses, behind small kernels, with everything in the caches
replaced, right behind another launch, and without asking the driver that all blocks run at once.
Where there is a traced build it says which operators the surplus is in.
"""

from __future__ import annotations

import argparse
import gc
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import numpy as np
import torch

from mpkir.runtime.artifact import Artifact, load_artifact
from mpkir.runtime.cuda import CudaProgram
from mpkir.runtime.program import Program
from mpkir.runtime.recording import (
    MARKS,
    NOT_MARKED,
    TRACED_BINARY,
    Notes,
    random_weights,
    times_of,
    traced,
)
from mpkir.tools.bench.records import append_records, device_name, provenance

WARM, REPEATS = 5, 41
FURTHER = 8
TRACED_STEPS, TRACED_LAUNCHES = 4, 7
STAGES = 256


class Launches:
    """Launches of a program from one position, where all tokens are known."""

    def __init__(self, program: Program, position: int) -> None:
        assert isinstance(program.launcher, CudaProgram)
        self.program, self.launcher, self.position = program, program.launcher, position
        language = program.manifest.language
        assert language is not None
        torch.manual_seed(0)
        program.buffer(language.tokens).random_(0, language.vocabulary)
        torch.cuda.synchronize()

    def wall(self, steps: int) -> float:
        """From the call until it returns."""
        begun = perf_counter()
        done = self.launcher.run(self.position, steps)
        elapsed = perf_counter() - begun
        assert done == steps
        return elapsed * 1e6

    def parts(self, steps: int) -> tuple[float, float, float]:
        """Until the driver has the launch; between events around it; all of it, with the events."""
        before, behind = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun = perf_counter()
        before.record()
        called = perf_counter()
        self.launcher.launch(self.position, steps)
        enqueued = perf_counter()
        behind.record()
        self.launcher.finish(steps)
        ended = perf_counter()
        device = before.elapsed_time(behind) * 1e3
        return (enqueued - called) * 1e6, device, (ended - begun) * 1e6

    def twice(self) -> float:
        """Two launches of one step, the second right behind the first."""
        begun = perf_counter()
        self.launcher.launch(self.position, 1)
        self.launcher._epoch += 1
        self.launcher.launch(self.position, 1)
        self.launcher.finish(1)
        return (perf_counter() - begun) * 1e6

    def repeated(
        self, measure: Callable[[], float], before: Callable[[], object] = lambda: None
    ) -> list[float]:
        """Each on an idle GPU."""
        times: list[float] = []
        for _ in range(WARM + REPEATS):
            before()
            torch.cuda.synchronize()
            times.append(measure())
        return times[WARM:]


def shown(times: Sequence[float]) -> str:
    """Median, least, and what a tenth exceeds."""
    return f"{median(times):8.1f} ({min(times):.1f}, 90 %: {np.quantile(times, 0.9):.1f})"


def split(launches: Launches) -> dict[str, float]:
    """The parts of a launch; prints them."""
    one: list[float] = []
    more: list[float] = []
    none: list[float] = []
    for turn in range(WARM + REPEATS):
        for times, steps in ((none, 0), (one, 1), (more, 1 + FURTHER)):
            torch.cuda.synchronize()
            elapsed = launches.wall(steps)
            if turn >= WARM:
                times.append(elapsed)
    step = (median(more) - median(one)) / FURTHER
    empty = [launches.parts(0) for _ in range(WARM + REPEATS)][WARM:]
    first = [launches.parts(1) for _ in range(WARM + REPEATS)][WARM:]
    found = {
        "step_us": step,
        "launch_us": median(one) - step,
        "empty_us": median(none),
        "enqueue_us": median(each[0] for each in empty),
        "empty_gpu_us": median(each[1] for each in empty),
        "surplus_us": median(one) - step - median(none),
        "surplus_gpu_us": median(each[1] for each in first)
        - step
        - median(each[1] for each in empty),
    }
    print(f"  step     {step:8.1f}")
    print(f"  launch   {found['launch_us']:8.1f}, of one step {shown(one)}")
    print(f"  empty    {shown(none)}")
    print(f"    enqueue{shown([each[0] for each in empty])}")
    print(f"    gpu    {shown([each[1] for each in empty])}")
    print(f"  surplus  {found['surplus_us']:8.1f}, between events {found['surplus_gpu_us']:.1f}")
    return found


def variants(launches: Launches, step: float) -> dict[str, float]:
    """Launches of one step under other circumstances, beyond a step; prints them."""
    device = launches.program.device
    small = torch.zeros(1024, device=device)
    large = torch.zeros(2**26, device=device)  # 256 MiB, five times the L2 cache
    befores: dict[str, Callable[[], object]] = {
        "nothing before": lambda: None,
        "1 ms before": lambda: sleep(1e-3),
        "30 ms before": lambda: sleep(30e-3),
        "small kernels before": lambda: small.add_(1.0).add_(1.0).add_(1.0),
        "other data in the caches": lambda: large.add_(1.0),
    }
    found: dict[str, float] = {}
    for name, before in befores.items():
        times = [each - step for each in launches.repeated(lambda: launches.wall(1), before)]
        found[name] = median(times)
        print(f"  {name:28s}{shown(times)}")
    pairs = [each - step for each in launches.repeated(launches.twice)]
    found["right behind another"] = median(pairs) - found["nothing before"] - step
    print(f"  {'right behind another':28s}{found['right behind another']:8.1f}")
    launcher = launches.launcher
    together = launcher._config, launcher._stream
    launcher._config = launcher._module.launch_config(
        launcher.table.worker_count, launcher.threads, launcher.shared_bytes, together=False
    )
    launcher._stream = None
    for name, steps in (("not cooperative, empty", 0), ("not cooperative", 1)):
        times = launches.repeated(lambda steps=steps: launches.wall(steps))
        times = [each - step * steps for each in times]
        found[name] = median(times)
        print(f"  {name:28s}{shown(times)}")
    launcher._config, launcher._stream = together
    bare = launches.repeated(lambda: _timed(torch.cuda.current_stream().synchronize))
    found["wait for an idle stream"] = median(bare)
    print(f"  {'wait for an idle stream':28s}{shown(bare)}")
    kernel = launches.repeated(lambda: _timed(lambda: (small.add_(1.0), torch.cuda.synchronize())))
    found["a small kernel of torch's"] = median(kernel)
    print(f"  {'a small kernel of torch':28s}{shown(kernel)}")
    return found


def _timed(what: Callable[[], Any]) -> float:
    begun = perf_counter()
    what()
    return (perf_counter() - begun) * 1e6


def traced_ends(launches: Launches) -> np.ndarray[Any, np.dtype[np.float64]]:
    """When each family of each step was done, [steps, families], medians of several launches;
    from the first mark of a launch."""
    program, table = launches.program, launches.program.table
    family = table.tasks[:, 0]
    found: list[np.ndarray[Any, np.dtype[np.float64]]] = []
    for _ in range(2 + TRACED_LAUNCHES):
        with Notes(program, TRACED_STEPS, TRACED_STEPS, STAGES) as notes:
            torch.cuda.synchronize()
            launches.wall(TRACED_STEPS)
        steps = range(TRACED_STEPS)
        marks = times_of(notes.tasks(steps), notes.looks(steps))
        asked = marks[0, :, MARKS.index("asked")]
        done = marks[..., MARKS.index("done")] - asked[asked != NOT_MARKED].min()
        ends = np.zeros((TRACED_STEPS, len(table.families)))
        for step in range(TRACED_STEPS):
            np.maximum.at(ends[step], family, done[step] / 1e3)
        found.append(ends)
    return np.median(np.stack(found[2:]), axis=0)


def by_operator(launches: Launches) -> dict[str, Any]:
    """What the first step takes longer than the third, by operator and by quarter of the step;
    prints it."""
    ends = traced_ends(launches)
    order = np.argsort(ends[2], kind="stable")
    ends = ends[:, order]
    begins = np.concatenate([[0.0], ends[:-1, -1]])
    lasting = np.diff(ends, axis=1, prepend=begins[:, None])
    names = [launches.program.table.names.families[int(k)] for k in order]
    surplus = lasting[0] - lasting[2]
    steps = [round(float(end - begin), 1) for begin, end in zip(begins, ends[:, -1], strict=True)]
    quarters = [round(float(each.sum()), 1) for each in np.array_split(surplus, 4)]
    sums: dict[str, list[float]] = defaultdict(list)
    for name, each in zip(names, surplus, strict=True):
        sums[re.sub(r"\d+", "*", name)].append(float(each))
    print(f"  traced: steps take {steps}; the first beyond the third, by quarters: {quarters}")
    print("  the first families, as they end: us of the first step, of the third")
    for name, a, b in zip(names[:10], lasting[0], lasting[2], strict=False):
        print(f"    {name:44s}{a:8.2f}{b:8.2f}")
    print("  by operator: families, surplus of the first, of all others together")
    worst = sorted(sums.items(), key=lambda item: -abs(sum(item[1])))[:12]
    for name, each in worst:
        print(f"    {name:44s}{len(each):4d}{each[0]:8.2f}{sum(each[1:]):8.2f}")
    return {
        "traced_steps_us": steps,
        "surplus_by_quarter_us": quarters,
        "surplus_by_operator_us": {
            name: [round(each[0], 2), round(sum(each[1:]), 2)] for name, each in worst
        },
    }


def measure(artifact: Artifact, name: str, position: int) -> dict[str, Any]:
    """Everything of one model; prints it."""
    weights = random_weights(artifact)
    launches = Launches(Program(artifact, weights), position)
    print(f"{name}, position {position}", flush=True)
    found: dict[str, Any] = split(launches)
    found["one_step_us"] = variants(launches, found["step_us"])
    found = {key: _rounded(value) for key, value in found.items()}
    if (artifact.path / TRACED_BINARY).is_file():
        del launches
        gc.collect()
        torch.cuda.empty_cache()
        found |= by_operator(Launches(Program(traced(artifact), weights), position))
    return {
        "benchmark": "launch",
        "system": "mpkir-megakernel",
        "model": name,
        "gpu": device_name(torch.device("cuda")),
        "gpus": 1,
        "batch": 1,
        "position": position,
        **found,
        **provenance(),
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: round(each, 1) for key, each in value.items()}
    return round(value, 1)


def main() -> None:
    """Take the launches of each model apart."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--artifacts", type=Path, default=Path("build/h100"))
    parser.add_argument("--position", type=int, default=32)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    gc.disable()  # its pauses are as long as what is measured
    for name in given.models:
        record = measure(load_artifact(given.artifacts / name), name, given.position)
        if given.json is not None:
            append_records(given.json, [record])
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
