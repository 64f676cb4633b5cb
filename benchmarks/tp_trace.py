"""One step of several ranks as rank 0's workers made it, for `mpk trace --from`.

    torchrun --standalone --nproc-per-node 2 benchmarks/tp_trace.py MODEL --artifacts build/h200 \
        --output traces

Takes MODEL+tp=N of the folder of artifacts, random weights; a traced build of its kernel notes when
tasks wait, begin and end. Beside it stands what a step takes without that, in launches of 127.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from mpkir.errors import MpkirError
from mpkir.runtime.artifact import Artifact
from mpkir.runtime.generation import LoadedLanguageModel
from mpkir.runtime.program import Program
from mpkir.runtime.ranks.group import Group, telling
from mpkir.runtime.recording import Recording, record, traced
from mpkir.tools.ablations import DEFAULT
from mpkir.tools.bench.models import model_source, weights_of
from mpkir.tools.bench.programs import artifact_name, find_artifact
from mpkir.tools.bench.ranks.reference import undivided
from mpkir.tools.bench.ranks.systems import Ranks
from mpkir.tools.bench.timing import WARM

POSITION, STEPS, RUNS = 32, 127, 5
"""Of the launches that are timed."""
TRACED = POSITION + STEPS // 2


def recorded(model_name: str, artifacts: Path, group: Group) -> Recording:
    """What a traced build notes of one step on this rank; all ranks have to make it."""
    found = find_artifact(artifacts, model_name, DEFAULT, 1, group.ranks)
    device = torch.device("cpu")
    if found.manifest.target.kind == "cuda":
        device = torch.device("cuda", group.number_on_host)
        torch.cuda.set_device(device)
    model = model_source(model_name).build(device)
    whole = undivided(found.manifest, model.config)
    weights = weights_of(model)

    def loaded(artifact: Artifact) -> Ranks:
        program = Program(artifact, weights=weights, device=device, group=group)
        return Ranks(LoadedLanguageModel(program), group, whole)

    system = loaded(found)
    system.prepare(POSITION)
    each = [system.run(POSITION, STEPS) for _ in range(WARM + RUNS)][WARM:]
    system = loaded(traced(found))
    generator = torch.Generator().manual_seed(0)
    shape = (1, system.model.capacity)
    system.start(torch.randint(system.model.roles.vocabulary, shape, generator=generator))
    notes: list[Recording] = []
    for _ in range(WARM):
        group.barrier()
        notes.append(record(system.program, TRACED))
    return replace(notes[-1], untraced_ms=median(each))


def main() -> None:
    """Record a step of each model; rank 0 writes its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--artifacts", type=Path, default=Path("build/h200"))
    parser.add_argument("--output", type=Path, default=Path())
    given = parser.parse_args()
    try:
        group = Group.join(int(os.environ.get("WORLD_SIZE", "1")))
        with telling(group):
            for model in given.models:
                found = recorded(model, given.artifacts, group)
                if group.rank == 0:
                    given.output.mkdir(parents=True, exist_ok=True)
                    name = artifact_name(model, DEFAULT, 1, group.ranks)
                    found.save(given.output / f"{name}.npz")
    except MpkirError as error:
        sys.exit(f"tp_trace: error: {error}")


if __name__ == "__main__":
    main()
