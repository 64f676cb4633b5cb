"""Decode on a GPU from compiled artifacts: `mpk bench` with what published results are measured by.

    python benchmarks/gpu_decode.py --artifacts build/h100 --json results.json [MODEL ..]

For each model, with random weights (or those of a checkpoint, given by its path): logits, 128
greedy tokens and the bits of repeated launches are checked against PyTorch in fp32, then launches
of 127 dependent steps from position 32 are timed in turns with torch.compile.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from models import MEASURED

from mpkir.errors import MpkirError
from mpkir.tools.bench import command
from mpkir.tools.bench.session import Settings


def main() -> None:
    """Measure each model and append the records to the results file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MEASURED))
    parser.add_argument("--artifacts", type=Path, default=Path("build/h100"))
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--no-peers", action="store_true")
    given = parser.parse_args()
    settings = Settings(runs=given.runs, repeats=given.repeats, artifacts=given.artifacts)
    peers = None if given.no_peers else ["reduce-overhead"]
    try:
        command.run(given.models, settings, peers=peers, json=given.json)
    except MpkirError as error:
        sys.exit(f"gpu_decode: error: {error}")


if __name__ == "__main__":
    main()
