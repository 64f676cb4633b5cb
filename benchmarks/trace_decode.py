"""When each task of a decode step waited, started and was done on a GPU.

    python benchmarks/compile_artifacts.py --traced MODEL             # anywhere
    python benchmarks/trace_decode.py --artifacts build/h100 --output traces MODEL ..

Writes OUTPUT/MODEL.npz: `ns`, int64 [tasks in the table's order, 3], the nanoseconds (of the GPU's
global timer) when the worker turned to the task, when its event had fired, and when it had
signalled, all in the last step of a launch; `ms`, the time of a step of that launch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from mpkir.errors import MpkirError
from mpkir.runtime.cuda import CudaProgram
from mpkir.runtime.generation import LoadedLanguageModel
from mpkir.runtime.program import load
from mpkir.tools.bench.models import model_source, weights_of
from mpkir.tools.bench.systems import Compiled
from mpkir.tools.bench.timing import time_in_turns

FIRST, STEPS = 32, 127


def trace(name: str, artifacts: Path, output: Path) -> None:
    """Run the traced build of a model with random weights and save what it noted."""
    model = model_source(name).build(torch.device("cuda"))
    lm = LoadedLanguageModel(load(artifacts / f"{name}-traced", weights=weights_of(model)))
    system = Compiled(lm)
    times = time_in_turns([system], FIRST, STEPS, 3)[system.label]
    if isinstance(times, MpkirError):
        raise times
    kernel = lm.program.launcher
    assert isinstance(kernel, CudaProgram)
    marks = kernel.read_global("mpk_trace").view(np.int64).reshape(-1, 4)[:, :3]
    output.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(output / f"{name}.npz", ns=marks, ms=times.median)
    print(
        f"{name}: {times.median:.4f} ms, last step {np.ptp(marks[marks > 0]) / 1e6:.3f} ms",
        flush=True,
    )


def main() -> None:
    """Trace each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--artifacts", type=Path, default=Path("build/h100"))
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    for name in arguments.models:
        trace(name, arguments.artifacts, arguments.output)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
