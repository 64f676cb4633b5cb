"""Decode on a CPU beside PyTorch's own bf16 eager decode: same weights, same threads, same process.

    python benchmarks/cpu_decode.py [MODEL | CHECKPOINT] [--workers 2] [--json results.json]
        [--policies round-robin hybrid dynamic] [--no-peers]

MODEL is a name of models.py (random weights), CHECKPOINT a directory or .gguf file. The systems
take turns, so that what else runs on the machine hits all of them: in each round each makes `steps`
dependent greedy steps from position `first`. Reported are the medians over the rounds, and the
error of both systems' logits against PyTorch in fp32.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from models import configurations
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel, StaticCache

from mpkir import LanguageModel
from mpkir.frontend import load_model
from mpkir.machine import machine_named
from mpkir.pipeline import POLICY
from mpkir.tools.bench import append_records, bytes_per_step, provenance, read_bandwidth

CHECKED = 64
"""Positions whose logits are compared."""


def build_model(name: str) -> PreTrainedModel:
    """A configuration with random weights, or a checkpoint, in bf16."""
    if name not in configurations():
        return load_model(name).model.eval()
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(configurations()[name], dtype=torch.bfloat16).eval()


@torch.inference_mode()
def time_eager(
    model: PreTrainedModel, prompt: torch.Tensor, steps: int, capacity: int, static: bool
) -> float:
    """Milliseconds a token of PyTorch's eager decode after a prompt."""
    cache = StaticCache(config=model.config, max_cache_len=capacity) if static else DynamicCache()
    token = model(input_ids=prompt[None], past_key_values=cache).logits[:, -1:].argmax(-1)
    begun = time.perf_counter()
    for step in range(steps):
        position = torch.tensor([[len(prompt) + step]])
        logits = model(input_ids=token, position_ids=position, past_key_values=cache).logits
        token = logits[:, -1:].argmax(-1)
    return (time.perf_counter() - begun) * 1e3 / steps


def time_ours(lm: LanguageModel, prompt: torch.Tensor, steps: int) -> float:
    """Milliseconds a token of the megakernel, `steps` tokens in one launch after a prompt."""
    sequence = lm.program.buffer(lm.roles.tokens)
    sequence.fill_(-1)
    sequence[: len(prompt)] = prompt
    lm.program.run(0, len(prompt))
    begun = time.perf_counter()
    done = lm.program.run(len(prompt), steps)
    return (time.perf_counter() - begun) * 1e3 / done


@torch.inference_mode()
def logit_errors(lm: LanguageModel, model: PreTrainedModel) -> dict[str, float]:
    """Largest error of our and of PyTorch's bf16 logits against PyTorch in fp32."""
    tokens = torch.randint(
        lm.roles.vocabulary, (CHECKED,), generator=torch.Generator().manual_seed(1)
    )
    ours = lm.logits(tokens.tolist())
    bf16 = model(input_ids=tokens[None]).logits[0].float()
    exact = model.float()(input_ids=tokens[None]).logits[0]
    model.bfloat16()
    return {
        "logit_error": (ours - exact).abs().max().item(),
        "logit_error_torch_bf16": (bf16 - exact).abs().max().item(),
    }


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Time all systems in turns; one record for each."""
    name, first, steps = arguments.model, arguments.first, arguments.steps
    torch.set_num_threads(arguments.workers)
    model = build_model(name)
    capacity = arguments.capacity
    ours = {
        policy: LanguageModel.from_model(
            model, "cpu", capacity=capacity, workers=arguments.workers, policy=policy
        )
        for policy in arguments.policies
    }
    lm = next(iter(ours.values()))
    vocabulary = lm.roles.vocabulary
    prompt = torch.randint(vocabulary, (first,), generator=torch.Generator().manual_seed(0))
    systems: dict[str, Callable[[], float]] = {
        f"mpkir-cpu, {policy}": partial(time_ours, each, prompt, steps)
        for policy, each in ours.items()
    }
    if not arguments.no_peers:
        systems |= {
            "torch.eager, dynamic cache": lambda: time_eager(model, prompt, steps, capacity, False),
            "torch.eager, static cache": lambda: time_eager(model, prompt, steps, capacity, True),
        }
    times: dict[str, list[float]] = {system: [] for system in systems}
    bandwidths: list[float] = []
    for turn in range(arguments.rounds + 1):
        for system, run in systems.items():
            time.sleep(0.2)  # PyTorch's threads go on polling for a while
            elapsed = run()
            if turn:
                times[system].append(elapsed)
        bandwidths.append(read_bandwidth(lm.program.device, machine_named("cpu")))
    tokens = [each.program.buffer(each.roles.tokens) for each in ours.values()]
    if not all(torch.equal(each, tokens[0]) for each in tokens):
        raise SystemExit(f"the policies {', '.join(ours)} gave different tokens")
    bandwidth = max(bandwidths)
    floor = bytes_per_step(lm.program.manifest, first + steps // 2) / bandwidth / 1e6
    common = {
        "benchmark": "cpu-decode",
        "model": Path(name).stem.lower() if name not in configurations() else name,
        "gpu": cpu_name(),
        "gpus": 0,
        "threads": arguments.workers,
        "batch": 1,
        "positions": [first, first + steps - 1],
        "runs": arguments.rounds,
        "load_average": os.getloadavg()[0],
        "floor_ms": round(floor, 4),
        "bandwidth_gb_s": round(bandwidth, 1),
        **logit_errors(lm, model),
        **provenance(),
    }
    return [
        {
            **_named(system),
            "ms": round(statistics.median(taken), 4),
            "ms_min": round(min(taken), 4),
            "ms_max": round(max(taken), 4),
            **common,
        }
        for system, taken in times.items()
    ]


def _named(system: str) -> dict[str, str]:
    """What a record calls a system: ours by one name, with its policy."""
    name, _, policy = system.partition(", ")
    return {"system": name, "policy": policy} if name == "mpkir-cpu" else {"system": system}


def cpu_name() -> str:
    """The processor as the system names it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "cpu"


def main() -> None:
    """Measure, print a table, and append the records to a results file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--first", type=int, default=32)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--capacity", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--policies", nargs="+", default=[POLICY])
    parser.add_argument("--no-peers", action="store_true")
    arguments = parser.parse_args()
    records = measure(arguments)
    for record in records:
        share = record["floor_ms"] / record["ms"]
        print(
            f"{record['system']:28} {record.get('policy', ''):12} {record['ms']:8.2f} ms/token "
            f"({record['ms_min']:.2f} to {record['ms_max']:.2f}), "
            f"{1e3 / record['ms']:6.1f} tokens/s, {share:.0%} of the floor"
        )
    first = records[0]
    print(f"floor: {first['floor_ms']:.2f} ms/token at {first['bandwidth_gb_s']} GB/s")
    print(
        f"logit error: {first['logit_error']:.4f}, "
        f"PyTorch's bf16: {first['logit_error_torch_bf16']:.4f}"
    )
    if arguments.json:
        append_records(arguments.json, records)


if __name__ == "__main__":
    main()
