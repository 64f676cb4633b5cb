"""Whole models on a GPU against transformers: compile here (no GPU needed), run there (no xDSL).

python tests/backends/cuda/model_check.py compile folder model ...
python tests/backends/cuda/model_check.py run folder model ...
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

sys.path.insert(0, str(Path(__file__).parents[3]))

CAPACITY = 1024
_SMALL = dict(
    num_hidden_layers=2,
    vocab_size=512,
    hidden_size=128,
    intermediate_size=256,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=1024,
)
MODELS: dict[str, Callable[[], Any]] = {
    "small-llama": lambda: LlamaConfig(**_SMALL),
    "small-qwen3": lambda: Qwen3Config(head_dim=64, tie_word_embeddings=True, **_SMALL),
    "smollm2-135m": lambda: LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_attention_heads=9,
        num_key_value_heads=3,
        num_hidden_layers=30,
        vocab_size=49152,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
    "llama-3.2-1b": lambda: LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        num_attention_heads=32,
        num_key_value_heads=8,
        num_hidden_layers=16,
        vocab_size=128256,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
    "qwen3-0.6b": lambda: Qwen3Config(
        hidden_size=1024,
        intermediate_size=3072,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        num_hidden_layers=28,
        vocab_size=151936,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
}
POSITIONS = (0, 1, 63, 64, 255, 256, 500)
BANDWIDTH = 3.14e9  # bytes a millisecond


def build(name: str, device: str) -> Any:
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(MODELS[name](), dtype=torch.bfloat16).eval()


def compile_model(folder: Path, name: str) -> None:
    from mpkir.language_model import compile_language_model

    compile_language_model(build(name, "meta"), "h100", capacity=CAPACITY, output=folder / name)
    print(f"compiled {name}")


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@torch.no_grad()
def run_model(folder: Path, name: str) -> None:
    from mpkir.runtime.program import load

    model = build(name, "cuda")
    program = load(folder / name, weights=model.state_dict())
    tokens, logits = program.buffer("tokens"), program.buffer("logits")
    prompt = torch.randint(0, model.config.vocab_size, (5,), device="cuda")
    tokens.fill_(-1)
    tokens[:5] = prompt
    got, position = {}, 0
    for target in POSITIONS:
        if target > position:
            assert program.run(position, target - position) == target - position
        assert program.run(target, 1) == 1
        got[target] = logits.flatten().clone()
        position = target + 1
    sequence = tokens[: position + 1].clone()
    half = model(sequence[None, :position], use_cache=False).logits[0].float()
    exact = model.float()(sequence[None, :position], use_cache=False).logits[0]
    model.bfloat16()
    ratios = []
    for target in POSITIONS:
        ours, theirs = error(got[target], exact[target]), error(half[target], exact[target])
        ratios.append(ours / theirs)
        print(f"  {target:5d}  {ours:.2e}  {theirs:.2e}  {ours / theirs:.2f}")
    best = exact[4:].argmax(-1)
    differ = (best != sequence[5 : position + 1]).nonzero().flatten().tolist()
    top = exact[4:].topk(2, -1).values
    gaps = [f"{(top[i, 0] - top[i, 1]).item():.1e}" for i in differ[:4]]
    same = True
    for _ in range(5):
        tokens.fill_(-1)
        tokens[:5] = prompt
        same = same and program.run(0, position) == position
        same = same and torch.equal(logits.flatten(), got[POSITIONS[-1]])
    program.run(512, 8)
    times = []
    for _ in range(7):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        program.run(512, 64)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 64)
    ms = sorted(times)[3]
    floor = program.manifest.info["weight_bytes_per_step"] / BANDWIDTH
    print(
        f"{name}: worst ratio {max(ratios):.2f}, {len(differ)} of {len(best)} tokens differ "
        f"{gaps}, same bits {same}, {ms:.4f} ms/step, floor {floor:.4f}, {100 * floor / ms:.1f} %"
    )


def main() -> None:
    what, folder, *names = sys.argv[1:]
    for name in names:
        (compile_model if what == "compile" else run_model)(Path(folder), name)


if __name__ == "__main__":
    main()
