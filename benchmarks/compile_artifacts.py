"""Compile the measured models for a GPU, from their configurations alone; needs no GPU.

python benchmarks/compile_artifacts.py --target h100 --output build/h100 [MODEL ..]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter

from models import CAPACITY, MEASURED, configurations

from mpkir.frontend import model_from_config
from mpkir.language_model import compile_language_model
from mpkir.tools.display import StageDisplay


def main() -> None:
    """Compile each model into OUTPUT/MODEL."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MEASURED))
    parser.add_argument("--target", default="h100")
    parser.add_argument("--output", type=Path, default=Path("build/h100"))
    arguments = parser.parse_args()
    for name in arguments.models:
        begun = perf_counter()
        with StageDisplay() as display:
            compile_language_model(
                model_from_config(configurations()[name]),
                arguments.target,
                capacity=CAPACITY,
                output=arguments.output / name,
                progress=display.progress,
            )
        print(f"{name}: {perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    main()
