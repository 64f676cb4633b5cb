"""`mpk generate`: text from a language model."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mpkir.tools.commands.options import Batch, Capacity, Debug, Plugins, Ranks, Target, Workers


def generate(
    source: Annotated[str, typer.Argument(help="An artifact, or a model to compile first.")],
    prompts: Annotated[
        list[str],
        typer.Argument(metavar="PROMPT..", help="A prompt or several; - reads standard input."),
    ],
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "-n", help="Most tokens to add.")
    ] = 64,
    chat: Annotated[bool, typer.Option(help="Use the model's chat template.")] = False,
    target: Target = "cpu",
    workers: Workers = None,
    capacity: Capacity = None,
    batch: Batch = 1,
    tp: Ranks = None,
    load_plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Continue a prompt, streaming, or several prompts, as many at once as the batch has.

    With --tp, or for an artifact that was compiled so, several processes run the model together:
    they are started here, or by torchrun.

    \b
    Examples:
      mpk generate model.gguf "Once upon a time" -t h200 --tp 4
      mpk generate smollm2 "What is the capital of France?" --chat
      echo "Once upon a time" | mpk generate model.gguf - -n 100
      mpk generate model.gguf "One" "Two" "Three" --batch 3
    """
    from rich.console import Console

    from mpkir.runtime.ranks.start import rank_here
    from mpkir.tools import ranks, sources
    from mpkir.tools.display import StageDisplay

    texts = [sys.stdin.read() if prompt == "-" else prompt for prompt in prompts]
    count = ranks.ranks_of(source, tp)
    if ranks.starts_here(count):
        options = ranks.options_of(
            max_new_tokens=max_new_tokens,
            chat=chat,
            target=target,
            workers=workers,
            capacity=capacity,
            batch=batch,
            tp=tp,
            load_plugin=load_plugin,
            debug=debug,
        )
        sys.exit(ranks.run("generate", [*options, "--", source, *texts], count))
    with StageDisplay() as display:
        model = sources.language_model(
            source, target, workers, capacity, display.progress, batch, count
        )
    if rank_here() > 0:
        model.generate(texts if len(texts) > 1 else texts[0], max_new_tokens, chat=chat)
        return
    if len(texts) > 1:
        for number, answer in enumerate(model.generate(texts, max_new_tokens, chat=chat), 1):
            print(f"[{number}] {answer.text}")
        return
    answer = model.generate(
        texts[0],
        max_new_tokens=max_new_tokens,
        chat=chat,
        on_text=lambda piece: print(piece, end="", flush=True),
    )
    print()
    Console(stderr=True).print(
        f"{answer.prompt_tokens} prompt tokens in {answer.prompt_seconds:.2f} s, "
        f"{len(answer.tokens)} new ones, {answer.tokens_per_second:.1f} tokens/s",
        highlight=False,
    )
