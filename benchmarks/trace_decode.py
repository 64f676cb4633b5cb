"""Record decode steps on a GPU; `mpk trace` draws them anywhere.

    python benchmarks/compile_artifacts.py --traced MODEL             # anywhere
    python benchmarks/trace_decode.py --artifacts build/h100 --output traces MODEL ..
    mpk trace build/h100/MODEL --from traces/MODEL.npz -o traces/MODEL

Weights are random. Needs neither xDSL nor a compiler. Prints the time of a step of the same launch
without and with marks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mpkir.progress import Progress
from mpkir.tools.trace.command import record_artifact


def main() -> None:
    """Trace each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--artifacts", type=Path, default=Path("build/h100"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--position", type=int, default=95)
    parser.add_argument("--steps", type=int, default=1, help="to keep, from the position on")
    given = parser.parse_args()
    for name in given.models:
        recording = record_artifact(
            given.artifacts / name,
            given.position,
            kept=given.steps,
            random=True,
            progress=Progress(),
        )
        recording.save(given.output / f"{name}.npz")
        more = recording.step_ms / recording.untraced_ms - 1
        print(
            f"{name}: {recording.untraced_ms:.4f} ms a step, {recording.step_ms:.4f} with marks "
            f"({more:+.2%}); {len(recording.stages)} stages",
            flush=True,
        )


if __name__ == "__main__":
    main()
