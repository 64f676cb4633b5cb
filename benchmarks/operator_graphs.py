"""Programs with a kernel for each operator: what graphs of several steps and kernels that start
early are worth, and where the time of a step goes.

    python benchmarks/compile_artifacts.py --launch per-operator --output build/h100-operators MODEL
    python benchmarks/operator_graphs.py --artifacts build/h100-operators MODEL ..

Weights are random. All variants have to make the same tokens. Needs neither xDSL nor a compiler.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from mpkir.runtime.per_operator import PerOperatorProgram
from mpkir.runtime.program import Program, load
from mpkir.tools.bench.models import model_source, weights_of

VARIANTS = {
    "8 steps a graph, early starts": {"steps": 8, "early": True},
    "1 step a graph, early starts": {"steps": 1, "early": True},
    "1 step a graph, one after another": {"steps": 1, "early": False},
}
FIRST, STEPS = 32, 127


def start(program: Program) -> torch.Tensor:
    """The token sequence, i64 [capacity + 1], with the same first tokens every time."""
    language = program.manifest.language
    assert language is not None
    sequence = program.buffer(language.tokens).view(-1)
    generator = torch.Generator().manual_seed(0)
    sequence.fill_(-1)
    sequence[: FIRST + 1] = torch.randint(language.vocabulary, (FIRST + 1,), generator=generator)
    return sequence


def decode(program: Program, launcher: PerOperatorProgram, steps: int) -> tuple[float, list[int]]:
    """Milliseconds of a step, and the tokens."""
    sequence = start(program)
    torch.cuda.synchronize()
    begun = perf_counter()
    done = launcher.run(FIRST, steps)
    assert done == steps
    return (perf_counter() - begun) * 1e3 / steps, sequence[: FIRST + 1 + steps].tolist()


def microseconds_by_kernel(
    program: Program, launcher: PerOperatorProgram
) -> dict[str, tuple[int, float]]:
    """Kernels of a step and the sum of their durations, by body; early starts count as time."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        decode(program, launcher, 8)
    found: dict[str, list[float]] = defaultdict(list)
    for event in profile.events() or ():
        if event.name.startswith("mpk_run_"):
            body = program.manifest.bodies[int(event.name.removeprefix("mpk_run_"))]
            found[body].append(event.device_time)
    return {body: (len(times) // 8, sum(times) / 8) for body, times in found.items()}


def main() -> None:
    """Time each model's variants and print the durations of its kernels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=10)
    given = parser.parse_args()
    for name in given.models:
        model = model_source(name.partition("+")[0]).build(torch.device("cuda"))
        program = load(given.artifacts / name, weights=weights_of(model))
        buffers = [program.buffer(buffer.name) for buffer in program.manifest.buffers]
        binary = program.artifact.binary_path
        launchers = {
            variant: PerOperatorProgram(binary, program.table, buffers, **options)
            for variant, options in VARIANTS.items()
        }
        # Keys and values before the first position.
        start(program)
        launchers["8 steps a graph, early starts"].run(0, FIRST)
        times: dict[str, list[float]] = defaultdict(list)
        tokens: set[tuple[int, ...]] = set()
        for _ in range(given.runs + 2):
            for variant, launcher in launchers.items():
                elapsed, made = decode(program, launcher, STEPS)
                times[variant].append(elapsed)
                tokens.add(tuple(made))
        same = "the same tokens" if len(tokens) == 1 else f"{len(tokens)} DIFFERENT sequences"
        print(f"{name}: {len(program.table.families)} kernels a step, {same}", flush=True)
        for variant, each in times.items():
            print(f"  {variant}: {median(each[2:]):.4f} ms", flush=True)
        for variant, launcher in launchers.items():
            print(f"  {variant}: durations of kernels in a profile", flush=True)
            for body, (count, total) in microseconds_by_kernel(program, launcher).items():
                print(f"    {body}: {count} x {total / max(count, 1):.2f} us", flush=True)


if __name__ == "__main__":
    main()
