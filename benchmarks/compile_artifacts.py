"""Compile the measured models for a GPU, from their configurations alone; needs no GPU.

python benchmarks/compile_artifacts.py --target h100 --output build/h100 [MODEL ..]
python benchmarks/compile_artifacts.py --ablate per-operator,in-flight=4 --batch 1,4 [MODEL ..]
python benchmarks/compile_artifacts.py --policy hybrid --output build/h100-hybrid [MODEL ..]
python benchmarks/compile_artifacts.py --target h200 --output build/h200 --tp 1,2 --alone [MODEL ..]
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from time import perf_counter

from models import CAPACITY, MEASURED

from mpkir.errors import MpkirError
from mpkir.pipeline import POLICY
from mpkir.runtime.artifact import Artifact, write_artifact
from mpkir.runtime.build_cuda import build_cuda
from mpkir.runtime.recording import traced
from mpkir.tools.ablations import DEFAULT, Ablation, ablations_named
from mpkir.tools.bench.command import numbers
from mpkir.tools.bench.models import TAG, ModelSource, model_source
from mpkir.tools.bench.programs import artifact_name
from mpkir.tools.display import StageDisplay
from mpkir.tools.variants import compile_variant
from mpkir.variant import Variant


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
        extra_files={"config.json": (artifact.path / "config.json").read_bytes()},
    )


def scheduled_by(policy: str, ablation: Ablation) -> Ablation:
    """The ablation with another scheduler."""
    if policy == POLICY:
        return ablation
    scheduler = Variant(options=(("mpk-schedule-tasks", "policy", policy),))
    return replace(ablation, variant=ablation.variant.over(scheduler))


def compile_model(name: str, given: argparse.Namespace) -> list[str]:
    """Into OUTPUT/MODEL, its variants beside it; what went wrong, after all the others."""
    source = model_source(name)
    ablations = ablations_named(given.ablate)
    errors: list[str] = []
    wanted = ablations if given.variants_only else (DEFAULT, *ablations)
    batches, ranks = numbers(given.batch, "batch sizes"), numbers(given.tp, "ranks")
    for batch, ablation, tp in product(batches, wanted, ranks):
        begun = perf_counter()
        place = given.output / artifact_name(source.name, ablation, batch, tp)
        try:
            _compile_one(source, ablation, batch, tp, place, given)
        except MpkirError as error:
            errors.append(f"{place.name}: {error}")
            print(errors[-1], flush=True)
            continue
        print(f"{place.name}: {perf_counter() - begun:.1f} s", flush=True)
    return errors


def _compile_one(
    source: ModelSource,
    ablation: Ablation,
    batch: int,
    tp: int,
    place: Path,
    given: argparse.Namespace,
) -> None:
    with StageDisplay() as display:
        artifact = compile_variant(
            source,
            scheduled_by(given.policy, ablation),
            target=f"{given.target}{{launch={given.launch}}}",
            batch=batch,
            capacity=given.capacity,
            workers=None,
            output=place,
            progress=display.progress,
            tp=tp,
        )
    if given.checked:
        write_variant(artifact, place.with_name(f"{place.name}-checked"), "MPK_CHECKED")
    if given.alone and tp > 1:
        write_variant(artifact, place.with_name(f"{place.name}{TAG}alone"), "MPK_ALONE")
    if given.traced:
        traced(artifact)


def main() -> None:
    """Compile each model, each batch size, each variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MEASURED))
    parser.add_argument("--target", default="h100")
    parser.add_argument("--policy", default=POLICY)
    parser.add_argument("--launch", default="persistent", help="or per-operator")
    parser.add_argument("--output", type=Path, default=Path("build/h100"))
    parser.add_argument("--capacity", type=int, default=CAPACITY)
    parser.add_argument("--batch", default="1", help="batch sizes, as in 1,2,4")
    parser.add_argument(
        "--ablate", action="append", default=[], help="also OUTPUT/MODEL+NAME; `mpk bench --list`"
    )
    parser.add_argument("--variants-only", action="store_true", help="not the default again")
    parser.add_argument(
        "--checked",
        action="store_true",
        help="also OUTPUT/MODEL-checked, whose every lane arrives at barriers, for racecheck",
    )
    parser.add_argument("--tp", default="1", help="numbers of ranks, as in 1,2,4")
    parser.add_argument(
        "--alone",
        action="store_true",
        help="also OUTPUT/MODEL+tp=N+alone, whose ranks wait for none but themselves",
    )
    parser.add_argument(
        "--traced",
        action="store_true",
        help="also a kernel in OUTPUT/MODEL that notes what tasks wait for: for trace_decode.py",
    )
    given = parser.parse_args()
    try:
        errors = [error for name in given.models for error in compile_model(name, given)]
    except MpkirError as error:
        sys.exit(f"compile_artifacts: error: {error}")
    if errors:
        sys.exit(f"compile_artifacts: {len(errors)} programs failed to compile")


if __name__ == "__main__":
    main()
