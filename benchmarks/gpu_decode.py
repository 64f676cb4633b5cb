"""Decode on a GPU: right answers, the same bits every time, and the time of a step beside
torch.compile.

    python benchmarks/gpu_decode.py --artifacts build/h100 --json results.json [MODEL ..]

For each model: random weights (or a checkpoint given as MODEL=PATH), the artifact loaded with those
weights in place, then
  logits   at positions 0, 1, 63, 64, 500 against PyTorch in fp32, beside PyTorch's own bf16 run
  tokens   128 greedy steps in one launch, each token against the fp32 reference's choice
  bits     repeated launches end with the same tokens and logits, bit for bit
  time     median of launches of 127 dependent steps from position 32, and torch.compile
           (mode reduce-overhead, static cache) over the same positions in the same process
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from models import MEASURED, configurations
from peers import time_torch_compile
from transformers import AutoModelForCausalLM, PreTrainedModel

from mpkir.runtime.generation import LoadedLanguageModel
from mpkir.runtime.program import load
from mpkir.tools.bench import append_records, time_decode

POSITIONS = (0, 1, 63, 64, 500)
FIRST, STEPS = 32, 127


def build_model(name: str, checkpoint: str | None) -> PreTrainedModel:
    """The model on the GPU in bf16: a checkpoint's weights, or random ones."""
    if checkpoint is not None:
        from mpkir.frontend.huggingface import load_model

        return load_model(checkpoint).model.cuda().eval()
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(configurations()[name], dtype=torch.bfloat16)
    return model.eval()


def weights_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Parameters by name, tied ones under each of their names."""
    return {n: p.detach() for n, p in model.named_parameters(remove_duplicate=False)}


@torch.inference_mode()
def reference_logits(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of one forward pass in the model's own precision, f32 [tokens, vocabulary]."""
    return model(input_ids=tokens[None], use_cache=False).logits[0].float()


def our_logits(lm: LoadedLanguageModel, tokens: torch.Tensor) -> torch.Tensor:
    """Logits at POSITIONS of a sequence that the megakernel runs through."""
    program = lm.program
    sequence = program.buffer(lm.roles.tokens)
    sequence.fill_(-1)
    sequence[: len(tokens)] = tokens
    rows: list[torch.Tensor] = []
    position = 0
    for wanted in POSITIONS:
        program.run(position, wanted + 1 - position)
        rows.append(program.buffer(lm.roles.logits).float().reshape(-1).clone())
        position = wanted + 1
    return torch.stack(rows)


def check_logits(
    lm: LoadedLanguageModel, bf16: PreTrainedModel, fp32: PreTrainedModel
) -> dict[str, Any]:
    """Errors of our logits and of PyTorch's bf16 logits against fp32, by position."""
    generator = torch.Generator("cuda").manual_seed(1)
    tokens = torch.randint(
        lm.roles.vocabulary, (max(POSITIONS) + 1,), device="cuda", generator=generator
    )
    exact = reference_logits(fp32, tokens)[list(POSITIONS)]
    torch_error = (reference_logits(bf16, tokens)[list(POSITIONS)] - exact).abs().amax(1)
    error = (our_logits(lm, tokens) - exact).abs().amax(1)
    return {
        "logit_error": error.max().item(),
        "logit_error_torch_bf16": torch_error.max().item(),
        "logit_errors": error.tolist(),
        "logit_errors_torch_bf16": torch_error.tolist(),
        "logits_right": bool((error <= 1.5 * torch_error).all()),
    }


def check_tokens(lm: LoadedLanguageModel, fp32: PreTrainedModel, error: float) -> dict[str, Any]:
    """128 greedy tokens of one launch, teacher-forced through the fp32 reference.

    A token is right if the reference chooses it too, or its logit is within `error` on both sides
    of the reference's best.
    """
    generator = torch.Generator("cuda").manual_seed(2)
    prompt = torch.randint(lm.roles.vocabulary, (16,), device="cuda", generator=generator)
    sequence = lm.program.buffer(lm.roles.tokens)
    sequence.fill_(-1)
    sequence[:16] = prompt
    lm.program.run(0, 15 + 128)
    tokens = sequence[: 16 + 128].clone()
    exact = reference_logits(fp32, tokens)[15:-1]
    chosen = tokens[16:]
    best = exact.argmax(1)
    gap = exact.amax(1) - exact.gather(1, chosen[:, None])[:, 0]
    return {
        "greedy_tokens": 128,
        "greedy_same_as_fp32": int((best == chosen).sum()),
        "greedy_right": bool((gap <= 2 * error).all()),
    }


def check_bits(lm: LoadedLanguageModel, launches: int, steps: int) -> dict[str, Any]:
    """Whether repeated launches give the same tokens and logits, bit for bit."""
    program = lm.program
    sequence = program.buffer(lm.roles.tokens)
    prompt = torch.randint(lm.roles.vocabulary, (16,), generator=torch.Generator().manual_seed(3))
    first: tuple[torch.Tensor, torch.Tensor] | None = None
    same = 0
    for _ in range(launches):
        sequence.fill_(-1)
        sequence[:16] = prompt.cuda()
        program.run(0, steps)
        result = (sequence.clone(), program.buffer(lm.roles.logits).clone())
        first = result if first is None else first
        same += all(torch.equal(a, b) for a, b in zip(first, result, strict=True))
    return {"repeated_launches": launches, "repeated_steps": steps, "repeated_same_bits": same}


def measure(name: str, checkpoint: str | None, arguments: argparse.Namespace) -> list[Any]:
    """All checks and timings of one model, as result records."""
    begun = time.perf_counter()
    model = build_model(name, checkpoint)
    lm = LoadedLanguageModel(load(arguments.artifacts / name, weights=weights_of(model)))
    print(f"{name}: loaded after {time.perf_counter() - begun:.1f} s", flush=True)
    program = lm.program
    program.run(0, 1)
    fp32 = build_model(name, checkpoint).float()
    checks = check_logits(lm, model, fp32)
    print(f"  {checks}", flush=True)
    checks |= check_tokens(lm, fp32, checks["logit_error"])
    del fp32
    torch.cuda.empty_cache()
    checks |= check_bits(lm, arguments.repeats, 16 if checkpoint is None else 64)
    print(f"  {checks}", flush=True)
    ours = time_decode(lm, name=name, first=FIRST, steps=STEPS, runs=arguments.runs)
    print(f"  {ours['ms']} ms, {ours['share_of_floor']:.1%} of the floor", flush=True)
    records = [ours | checks]
    if not arguments.no_peers:
        times = time_torch_compile(model, FIRST, STEPS, lm.capacity, runs=3)
        peer = {key: ours[key] for key in ("benchmark", "model", "gpu", "gpus", "batch")}
        peer |= {key: ours[key] for key in ("positions", "floor_ms", "commit", "command", "date")}
        peer |= {
            "system": "torch.compile",
            "mode": "reduce-overhead",
            "ms": round(statistics.median(times), 5),
            "ms_min": round(min(times), 5),
            "ms_max": round(max(times), 5),
            "runs": len(times),
            "versions": ours["versions"],
        }
        print(f"  torch.compile {peer['ms']} ms", flush=True)
        records.append(peer)
    return records


def main() -> None:
    """Measure each model and append the records to the results file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MEASURED))
    parser.add_argument("--artifacts", type=Path, default=Path("build/h100"))
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--no-peers", action="store_true")
    arguments = parser.parse_args()
    for model in arguments.models:
        name, _, checkpoint = model.partition("=")
        append_records(arguments.json, measure(name, checkpoint or None, arguments))
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
