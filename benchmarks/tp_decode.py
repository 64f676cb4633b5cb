"""Decode on several GPUs: one program on all of them, beside it on one GPU and beside PyTorch.

    torchrun --standalone --nproc-per-node 2 benchmarks/tp_decode.py --artifacts build/h200 \
        --json results.json [MODEL ..]

For each model, with random weights, in DIR (compile_artifacts.py --tp 1,2 --alone):
  MODEL             on one GPU, every rank for itself
  MODEL+tp=N        on all N ranks
  MODEL+tp=N+alone  the same kernel, whose ranks send themselves what they would send to others: the
                    step without what other GPUs cost (its tokens mean nothing)
Logits at several positions, greedy tokens and the bits of repeated launches are checked against
PyTorch in fp32, as `mpk bench` does, then launches of 127 dependent steps are timed in turns, also
with torch.compile and NCCL (tp_peers.py). A step's time is from when the last rank has begun.
"""

from __future__ import annotations

import argparse
import os
import sys
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["NCCL_NVLS_ENABLE"] = "0"
os.environ["TORCH_SYMM_MEM_DISABLE_MULTICAST"] = "1"
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one host, which may have no network

import torch
import torch.distributed as dist
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from tp_peers import TensorParallel, divide, fastest, hosts, meet, start

from mpkir.errors import MpkirError
from mpkir.machine import machine_named
from mpkir.runtime.artifact import Artifact, load_artifact
from mpkir.runtime.generation import LoadedLanguageModel
from mpkir.runtime.manifest import Manifest
from mpkir.runtime.program import Program
from mpkir.runtime.ranks.group import Group
from mpkir.runtime.recording import Recording, traced
from mpkir.runtime.recording import record as trace
from mpkir.tools.bench.caches import random_rows
from mpkir.tools.bench.checks import Reference, check
from mpkir.tools.bench.models import TAG, model_source, weights_of
from mpkir.tools.bench.records import (
    append_records,
    bytes_per_step,
    caches_of,
    device_name,
    provenance,
)
from mpkir.tools.bench.session import release
from mpkir.tools.bench.systems import Compiled, System
from mpkir.tools.bench.timing import Times, time_in_turns

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ALONE = "alone"
TRACED_POSITION = 95


class LeanReference(Reference):
    """A model in bf16 and in fp32 whose weights lie there once, in bf16: each is widened when a
    product comes to it, which is exact."""

    def __init__(self, bf16: PreTrainedModel, device: torch.device) -> None:
        self.bf16, self.device = bf16, device
        shared: dict[int, Any] = {id(each): each for each in bf16.parameters()}
        self.fp32 = deepcopy(bf16, shared)
        for module in self.fp32.modules():
            if isinstance(module, nn.Linear):
                module.forward = partial(_wide_linear, module)
            elif isinstance(module, nn.Embedding):
                module.forward = partial(_wide_embedding, module)


def _wide_linear(module: nn.Linear, input: torch.Tensor) -> torch.Tensor:
    bias = None if module.bias is None else module.bias.float()  # pyright: ignore[reportUnnecessaryComparison]
    return nn.functional.linear(input.float(), module.weight.float(), bias)


def _wide_embedding(module: nn.Embedding, input: torch.Tensor) -> torch.Tensor:
    return nn.functional.embedding(input, module.weight).float()


def undivided(manifest: Manifest, config: Any) -> Manifest:
    """A program's manifest, whose caches have all heads of the model."""
    heads = config.num_key_value_heads
    caches = {cache.name for cache in caches_of(manifest)}
    buffers = tuple(
        replace(b, shape=(b.shape[0], heads, *b.shape[2:])) if b.name in caches else b
        for b in manifest.buffers
    )
    return replace(manifest, buffers=buffers)


class Ranks(Compiled):
    """A program of several ranks, of which this is one.

    whole   its manifest, undivided
    alone   whether it waits for nobody, so that its tokens mean nothing
    """

    def __init__(self, model: LoadedLanguageModel, whole: Manifest, alone: bool = False) -> None:
        super().__init__(model, ALONE if alone else "")
        self.group = model.program.group
        assert self.group is not None
        self.label += f", {self.group.ranks} ranks"
        self.facts["tp"] = self.group.ranks
        self._whole = {buffer.name: buffer for buffer in caches_of(whole)}
        self._alone = alone

    def fill_caches(self, positions: int) -> None:
        """Give each rank its heads of the rows that a program for one rank has."""
        assert self.group is not None
        for cache in caches_of(self.manifest):
            whole, heads = self._whole[cache.name], cache.shape[1]
            part = self.group.rank * (whole.shape[1] // heads) // self.group.ranks
            rows = random_rows(whole, positions, self.program.device)
            memory = self.program.buffer(cache.name)
            memory.zero_()
            memory[:, :, :positions] = rows[:, part * heads : (part + 1) * heads]

    def logits(self) -> torch.Tensor:
        logits = self.program.output(self.model.roles.logits).to(self.program.device)
        return logits.float().reshape(self.batch, -1).clone()

    def run(self, position: int, steps: int) -> float:
        meet(self.program.device)
        return fastest(super().run(position, steps))

    def _check_repeats(self, position: int, steps: int) -> None:
        if not self._alone:
            super()._check_repeats(position, steps)


class OneRank(Compiled):
    """A program for one rank, which all ranks run at once, each for itself."""

    def __init__(self, model: LoadedLanguageModel) -> None:
        super().__init__(model)
        self.label += ", 1 rank"
        self.facts["tp"] = 1

    def run(self, position: int, steps: int) -> float:
        meet(self.program.device)
        return fastest(super().run(position, steps))


@dataclass(frozen=True)
class Settings:
    """What to measure of each model."""

    artifacts: Path
    device: torch.device
    group: Group
    position: int
    steps: int
    runs: int
    repeats: int
    peers: tuple[str, ...]
    trace: Path | None


def measure(model_name: str, settings: Settings) -> tuple[list[dict[str, Any]], bool]:
    """Check and time every system of a model; the records of those that are right, and whether all
    are."""
    device, ranks = settings.device, settings.group.ranks
    base = settings.artifacts / model_name
    one = load_artifact(base) if (base / "manifest.json").is_file() else None
    many = load_artifact(Path(f"{base}{TAG}tp={ranks}"))
    alone_path = Path(f"{base}{TAG}tp={ranks}{TAG}{ALONE}")
    alone = load_artifact(alone_path) if alone_path.is_dir() else None
    model = model_source(model_name).build(device)
    whole = undivided(many.manifest, model.config)
    weights = weights_of(model)
    say(f"{model_name}: {ranks} ranks on {device_name(device)}")

    reference = LeanReference(model, device)
    chain = reference.chain(whole, 1)
    on_caches = reference.on_random_caches(whole, 1, [settings.position])
    facts: dict[str, dict[str, Any]] = {}
    systems: list[System] = []
    for artifact in filter(None, (one, many)):
        system = load(artifact, weights, whole, settings)
        systems.append(system)
        try:
            facts[system.label] = check(system, reference, chain, on_caches, settings.repeats)
        except MpkirError as error:
            say(f"{system.label}: WRONG: {error}")
            continue
        fact = facts[system.label]
        say(
            f"{system.label}: right; logits off by {fact['logit_error']:.4g} from fp32, PyTorch's "
            f"bf16 by {fact['logit_error_torch_bf16']:.4g}; "
            f"{fact.get('greedy_same_as_fp32')} of {fact.get('greedy_tokens')} tokens as fp32"
        )
    del reference
    release(device)
    if alone is not None:
        systems.append(load(alone, weights, whole, settings, is_alone=True))
    recording: Recording | None = None
    if settings.trace is not None:
        recording = recorded(load(traced(many), weights, whole, settings))
    weights.clear()
    roles = many.manifest.language
    assert roles is not None
    if settings.peers:
        before = last_logits(model, device)
        divide(model)
        off = (last_logits(model, device) - before).abs().max().item()
        say(f"torch, divided: logits off by {off:.4g} of {before.abs().max().item():.4g}")
    for mode in settings.peers:
        systems.append(TensorParallel(model, mode, 1, roles.capacity, device))
    found = time_in_turns(systems, settings.position, settings.steps, settings.runs)
    records: list[dict[str, Any]] = []
    timed: list[System] = []
    for system in systems:
        times = found[system.label]
        if isinstance(times, MpkirError):
            say(f"{system.label}: {times}")
            continue
        timed.append(system)
        records.append(record_of(system, times, model_name, many, settings))
        records[-1] |= facts.get(system.label, {})
        if recording and system is systems[0 if one is None else 1] and dist.get_rank() == 0:
            assert settings.trace is not None
            path = settings.trace / f"{model_name}{TAG}tp={ranks}.npz"
            replace(recording, untraced_ms=times.median).save(path)
    tell(records)
    wrong = {s.label for s in systems if isinstance(s, Compiled) and not s.variant} - set(facts)
    right = [r for system, r in zip(timed, records, strict=True) if system.label not in wrong]
    return right, not wrong


def load(
    artifact: Artifact,
    weights: dict[str, torch.Tensor],
    whole: Manifest,
    settings: Settings,
    is_alone: bool = False,
) -> Compiled:
    """A program with memory on this rank's GPU."""
    is_one = artifact.manifest.ranks == 1
    group = None if is_one else settings.group
    program = Program(artifact, weights=weights, device=settings.device, group=group)
    model = LoadedLanguageModel(program)
    return OneRank(model) if is_one else Ranks(model, whole, is_alone)


def recorded(system: Compiled) -> Recording:
    """What a traced build notes of one step; all ranks make it, each has its own."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, system.model.capacity)
    system.start(torch.randint(system.model.roles.vocabulary, shape, generator=generator))
    meet(system.program.device)
    trace(system.program, TRACED_POSITION)
    meet(system.program.device)
    return trace(system.program, TRACED_POSITION)


def last_logits(model: Any, device: torch.device) -> torch.Tensor:
    """Of a short random sequence, f32 [vocabulary]."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(model.config.vocab_size, (1, 40), generator=generator).to(device)
    with torch.inference_mode():
        return model(input_ids=tokens, use_cache=False).logits[0, -1].float()


def record_of(
    system: System, times: Times, model: str, artifact: Artifact, settings: Settings
) -> dict[str, Any]:
    """What results hold of a system."""
    roles = artifact.manifest.language
    assert roles is not None
    record: dict[str, Any] = {
        "benchmark": "decode-tp",
        "system": system.name,
        **system.facts,
        "model": model,
        "weights": "random",
        "gpu": device_name(settings.device),
        "gpus": system.facts["tp"],
        "batch": 1,
        "positions": [settings.position, settings.position + settings.steps - 1],
        "capacity": roles.capacity,
        **times.record(),
        **provenance(),
    }
    if isinstance(system, Compiled):
        size = bytes_per_step(system.manifest, settings.position + settings.steps // 2)
        bandwidth = machine_named(system.manifest.target.name).memory_bandwidth
        record["bytes"] = size  # of one rank
        record["floor_ms"] = round(size / bandwidth / 1e6, 5)
    return record


def tell(records: list[dict[str, Any]]) -> None:
    """The times, and what they mean for each other."""
    by_kind: dict[str, float] = {}
    for record in records:
        kind = record.get("variant") or (f"tp={record['tp']}" if "bytes" in record else "torch")
        by_kind[kind] = record["ms"]
        floor = f", floor {record['floor_ms']:.4f}" if "floor_ms" in record else ""
        name = " ".join(str(record[k]) for k in ("system", "mode", "variant", "tp") if k in record)
        say(
            f"{record['model']} {name}: {record['ms']:.4f} ms "
            f"({record['ms_min']:.4f}-{record['ms_max']:.4f}){floor}"
        )
    ranks = max((record["tp"] for record in records), default=1)
    own = by_kind.get(f"tp={ranks}")
    if own is None:
        return
    if "tp=1" in by_kind:
        say(f"  {own / by_kind['tp=1']:.3f}x of one GPU's time")
    if ALONE in by_kind:
        share = 1 - by_kind[ALONE] / own
        say(f"  exposed communication: {own - by_kind[ALONE]:.4f} ms, {share:.1%} of the step")
    if "torch" in by_kind:
        say(f"  {by_kind['torch'] / own:.2f}x faster than torch.compile with NCCL")


def say(text: str) -> None:
    """Print on rank 0."""
    if dist.get_rank() == 0:
        print(text, flush=True)


def main() -> None:
    """Measure each model; rank 0 appends the records to the results file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", default=["qwen3-8b"])
    parser.add_argument("--artifacts", type=Path, default=Path("build/h200"))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--position", type=int, default=32)
    parser.add_argument("--steps", type=int, default=127)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument(
        "--trace", type=Path, help="a folder for a step of rank 0, as mpk trace reads it"
    )
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    device = start(given.device)
    hosts()
    failed = False
    try:
        settings = Settings(
            given.artifacts,
            device,
            Group.join(dist.get_world_size()),
            given.position,
            given.steps,
            given.runs,
            given.repeats,
            () if given.no_peers else ("reduce-overhead",),
            given.trace,
        )
        for model in given.models:
            records, right = measure(model, settings)
            failed = failed or not right
            if dist.get_rank() == 0 and given.json is not None:
                append_records(given.json, records)
            torch._dynamo.reset()
            release(device)
    except MpkirError as error:
        print(f"tp_decode: error on rank {dist.get_rank()}: {error}", file=sys.stderr, flush=True)
        failed = True
    sys.stdout.flush()
    os._exit(1 if failed else 0)  # Ending NCCL waits for graphs that hold its calls.


if __name__ == "__main__":
    main()
