"""Time artifacts of one model beside each other, in turns, on a GPU.

    python benchmarks/compile_artifacts.py --output build/h100 MODEL --ablate ..   # anywhere
    python benchmarks/compare_artifacts.py build/h100/MODEL build/h100/MODEL+.. --json results.json

For experiments: weights are random and lie there once, nothing is checked against PyTorch (`mpk
bench` does that). That repeated launches give the same logits is checked, and how far the first
step's logits and the tokens are from those of the first artifact is told. Needs no xDSL.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from typing import Any

import torch

from mpkir.errors import MpkirError
from mpkir.runtime.artifact import load_artifact
from mpkir.runtime.generation import LoadedLanguageModel
from mpkir.runtime.program import Program
from mpkir.runtime.recording import random_weights
from mpkir.tools.bench.records import append_records, device_name, provenance
from mpkir.tools.bench.systems import Compiled


def main() -> None:
    """Compare at each position."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifacts", nargs="+", type=Path)
    parser.add_argument("--positions", type=int, nargs="+", default=[32])
    parser.add_argument("--steps", type=int, default=127, help="of a launch")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    systems = load(given.artifacts)
    records: list[dict[str, Any]] = []
    for position in given.positions:
        records += compare(systems, position, given.steps, given.repeats)
    if given.json:
        append_records(given.json, records)


def load(paths: list[Path]) -> dict[str, Compiled]:
    """The programs by the names of their folders, all on the weights of the first."""
    artifacts = [load_artifact(path) for path in paths]
    weights = dict(random_weights(artifacts[0]))
    for tensor in weights.values():
        if tensor.dim() == 1:
            tensor.fill_(1.0)  # norms
    first = Program(artifacts[0], weights)
    programs = [first, *(Program(each, weights, beside=first) for each in artifacts[1:])]
    return {
        path.name: Compiled(LoadedLanguageModel(program))
        for path, program in zip(paths, programs, strict=True)
    }


def compare(
    systems: dict[str, Compiled], position: int, steps: int, repeats: int
) -> list[dict[str, Any]]:
    """Records of the systems whose launches repeat."""
    facts: dict[str, dict[str, Any]] = {}
    expected: tuple[torch.Tensor, torch.Tensor] | None = None
    for name, system in systems.items():
        try:
            system.prepare(position)
            system.run(position, steps)
            logits, tokens = system.logits(), system.sequences[0].clone()
            system.run(position, steps)
            if not torch.equal(logits, system.logits()):
                raise MpkirError("a launch does not repeat", where=name)
            system.run(position, 1)
        except MpkirError as error:
            print(f"{name} at {position}: {error}", flush=True)
            continue
        first = system.logits()
        expected = expected or (first, tokens)
        same = (tokens == expected[1])[position + 1 : position + 1 + steps]
        facts[name] = {
            "logits_apart": float((first - expected[0]).abs().max()),
            "same_tokens": int(same.long().cumprod(0).sum()),
        }
    times: dict[str, list[float]] = {name: [] for name in facts}
    for _ in range(repeats):
        for name, each in times.items():
            each.append(systems[name].run(position, steps))
    records: list[dict[str, Any]] = []
    for name, each in times.items():
        model, _, variant = name.partition("+")
        costs = systems[name].launch_costs(position)
        print(
            f"{name:40s} at {position}: {median(each):.4f} ms ({min(each):.4f}-{max(each):.4f}), "
            f"{costs}, {facts[name]}",
            flush=True,
        )
        records.append(
            {
                "benchmark": "compare",
                "system": systems[name].name,
                "model": model,
                "variant": variant,
                "gpu": device_name(systems[name].program.device),
                "gpus": 1,
                "batch": systems[name].batch,
                "positions": [position, position + steps - 1],
                "ms": round(median(each), 5),
                "ms_min": round(min(each), 5),
                "ms_max": round(max(each), 5),
                "runs": repeats,
                **costs,
                **facts[name],
                **provenance(),
            }
        )
    return records


if __name__ == "__main__":
    main()
