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
from gpu_decode import FIRST, STEPS, build_model, weights_of

from mpkir.runtime.cuda import CudaProgram
from mpkir.runtime.generation import LoadedLanguageModel
from mpkir.runtime.program import load
from mpkir.tools.bench import time_decode


def trace(name: str, artifacts: Path, output: Path) -> None:
    """Run the traced build of a model with random weights and save what it noted."""
    model = build_model(name, None)
    lm = LoadedLanguageModel(load(artifacts / f"{name}-traced", weights=weights_of(model)))
    record = time_decode(lm, name=name, first=FIRST, steps=STEPS, runs=3)
    kernel = lm.program.launcher
    assert isinstance(kernel, CudaProgram)
    marks = kernel.read_global("mpk_trace").view(np.int64).reshape(-1, 4)[:, :3]
    output.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(output / f"{name}.npz", ns=marks, ms=record["ms"])
    print(
        f"{name}: {record['ms']} ms, last step {np.ptp(marks[marks > 0]) / 1e6:.3f} ms", flush=True
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
