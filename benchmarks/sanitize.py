"""A few steps of a small model, to be run under compute-sanitizer.

    compute-sanitizer --tool memcheck --kernel-name kernel_substring=mpk_run \\
        python benchmarks/sanitize.py build/h100/small
"""

from __future__ import annotations

import sys

import torch

from mpkir.runtime.cuda import CudaProgram
from mpkir.runtime.generation import LoadedLanguageModel
from mpkir.runtime.program import load
from mpkir.tools.bench.models import model_source, weights_of


def main() -> None:
    """Run a step at 0 and four from 254, so that the second chunk of the cache is entered."""
    model = model_source(sys.argv[1]).build(torch.device("cuda"))
    lm = LoadedLanguageModel(load(sys.argv[1], weights=weights_of(model)))
    # Under the sanitizer a step takes seconds.
    assert isinstance(lm.program.launcher, CudaProgram)
    lm.program.launcher.watchdog_s = 0.0
    sequence = lm.program.buffer(lm.roles.tokens)
    sequence.fill_(-1)
    sequence[:255] = torch.arange(255, device=sequence.device)
    for position in (0, 254):
        print(lm.program.run(position, 4 if position else 1), "steps")
    print(sequence[252:260].tolist())


if __name__ == "__main__":
    main()
