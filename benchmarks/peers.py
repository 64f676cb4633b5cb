"""Other systems on the same decode step, in the same process."""

from __future__ import annotations

from time import perf_counter

import torch
from transformers import PreTrainedModel, StaticCache


@torch.inference_mode()
def time_torch_compile(
    model: PreTrainedModel, first: int, steps: int, capacity: int, runs: int
) -> list[float]:
    """Milliseconds per token of torch.compile (reduce-overhead: CUDA graphs), one per run.

    Each run makes `steps` dependent steps from position `first` with a static cache of `capacity`
    rows, embedding to argmax, the token of a step fed to the next on the GPU.
    """
    cache = StaticCache(config=model.config, max_cache_len=capacity)
    torch._dynamo.reset()

    def step(token: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        logits = model(
            input_ids=token,
            position_ids=position[None],
            past_key_values=cache,
            use_cache=True,
        ).logits
        return logits[:, -1].argmax(-1, keepdim=True)

    compiled = torch.compile(step, mode="reduce-overhead", fullgraph=True)
    generator = torch.Generator("cuda").manual_seed(0)
    prompt = torch.randint(model.config.vocab_size, (1, first), device="cuda", generator=generator)
    times: list[float] = []
    for run in range(runs + 2):
        cache.reset()
        model(
            input_ids=prompt,
            past_key_values=cache,
            use_cache=True,
        )
        token = prompt[:, -1:].clone()
        positions = torch.arange(first, first + steps, device="cuda")
        torch.cuda.synchronize()
        begun = perf_counter()
        for index in range(steps):
            torch.compiler.cudagraph_mark_step_begin()
            token = compiled(token, positions[index : index + 1]).clone()
        torch.cuda.synchronize()
        if run >= 2:
            times.append((perf_counter() - begun) * 1e3 / steps)
    return times
