"""Ask a model that several GPUs run together, as one kernel each; or several processes on a CPU.

    torchrun --nproc-per-node 4 examples/several_gpus.py Qwen/Qwen3-8B h200 "Why is the sky blue?"
    torchrun --nproc-per-node 3 examples/several_gpus.py SmolLM2-135M-Instruct.gguf cpu "Hello!"

Every process runs this file and makes the same calls; each has its part of the weights. From the
command line, `mpk generate MODEL PROMPT -t h200 --tp 4` is the same, and needs no torchrun.
"""

from __future__ import annotations

import os
import sys

from mpkir import LanguageModel, MpkirError


def main(source: str, target: str, question: str) -> None:
    """Compile for as many ranks as there are, and answer."""
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    model = LanguageModel.from_pretrained(source, target, tp=ranks)
    answer = model.generate(question, max_new_tokens=128, chat=True)
    if rank == 0:
        print(answer.text)
        print(f"{answer.tokens_per_second:.1f} tokens/s on {ranks} ranks", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except MpkirError as error:
        sys.exit(f"rank {os.environ.get('RANK', 0)}: error: {error}")
