"""Compile the measured models for a GPU, from their configurations alone; needs no GPU.

python benchmarks/compile_artifacts.py --target h100 --output build/h100 [MODEL ..]
python benchmarks/compile_artifacts.py --policy hybrid --output build/h100-hybrid [MODEL ..]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter

from models import CAPACITY, MEASURED, configurations

from mpkir.frontend import model_from_config
from mpkir.language_model import compile_language_model
from mpkir.pipeline import POLICY
from mpkir.runtime.artifact import Artifact, write_artifact
from mpkir.runtime.build_cuda import build_cuda
from mpkir.tools.display import StageDisplay


def write_variant(artifact: Artifact, output: Path, define: str) -> None:
    """The same program, its kernel built with a macro defined that the shipped one has not."""
    source = f"#define {define}\n" + artifact.source_path.read_text(encoding="utf-8")
    write_artifact(
        output,
        artifact.manifest,
        artifact.table,
        source=source,
        binary=build_cuda(source, artifact.manifest.target.arch),
        constants=dict(artifact.constants()),
    )


def main() -> None:
    """Compile each model into OUTPUT/MODEL."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MEASURED))
    parser.add_argument("--target", default="h100")
    parser.add_argument("--policy", default=POLICY)
    parser.add_argument("--output", type=Path, default=Path("build/h100"))
    parser.add_argument(
        "--checked",
        action="store_true",
        help="also OUTPUT/MODEL-checked, whose every lane arrives at barriers, for racecheck",
    )
    parser.add_argument(
        "--traced",
        action="store_true",
        help="also OUTPUT/MODEL-traced, which notes when each task waited, ran and was done",
    )
    arguments = parser.parse_args()
    for name in arguments.models:
        begun = perf_counter()
        with StageDisplay() as display:
            artifact = compile_language_model(
                model_from_config(configurations()[name]),
                arguments.target,
                capacity=CAPACITY,
                output=arguments.output / name,
                progress=display.progress,
                policy=arguments.policy,
            )
        if arguments.checked:
            write_variant(artifact, arguments.output / f"{name}-checked", "MPK_CHECKED")
        if arguments.traced:
            tasks = len(artifact.table.tasks)
            write_variant(artifact, arguments.output / f"{name}-traced", f"MPK_TRACE {tasks}")
        print(f"{name}: {perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    main()
