"""Generating text with a loaded program: prompts in, tokens and text out. Needs no compiler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, overload

import torch

from mpkir.errors import MpkirError
from mpkir.runtime.program import Program, load

TOKENIZER = "tokenizer"
"""Folder of an artifact that holds the tokenizer's files."""


@dataclass(frozen=True)
class Generation:
    """What one prompt led to."""

    text: str
    """The generated text, without the prompt and without a stop token."""
    tokens: tuple[int, ...]
    """The generated ids, a stop token included."""
    prompt_tokens: int
    prompt_seconds: float
    """From the launch to the first generated token."""
    decode_seconds: float
    """From there to the last."""

    @property
    def tokens_per_second(self) -> float:
        """Rate after the first token; 0 where nothing came after it."""
        later = len(self.tokens) - 1
        return later / self.decode_seconds if later > 0 and self.decode_seconds > 0 else 0.0


class LoadedLanguageModel:
    """A program with the roles of a language model, and its tokenizer if the artifact has one.

    Raises MpkirError where the program is no language model.
    """

    def __init__(self, program: Program) -> None:
        if program.manifest.language is None:
            raise MpkirError(
                "this program is not a language model", where=str(program.artifact.path)
            )
        self.program = program
        self.roles = program.manifest.language
        self.tokenizer = _tokenizer_of(program.artifact.path / TOKENIZER)
        self.burst = 1 if program.manifest.target.kind == "cpu" else 16
        """Steps in one launch while text is streamed."""

    @classmethod
    def load(
        cls, path: str | Path, weights: Mapping[str, torch.Tensor] | None = None
    ) -> LoadedLanguageModel:
        """Load an artifact directory; `weights` instead of those it holds or refers to."""
        return LoadedLanguageModel(load(path, weights))

    @property
    def capacity(self) -> int:
        """Most tokens of prompt and answer together."""
        return self.roles.capacity

    @overload
    def generate(
        self,
        prompt: str | Sequence[int],
        max_new_tokens: int = 64,
        *,
        chat: bool = False,
        on_text: Callable[[str], None] | None = None,
    ) -> Generation: ...
    @overload
    def generate(
        self,
        prompt: list[str] | tuple[str, ...],
        max_new_tokens: int = 64,
        *,
        chat: bool = False,
        on_text: Callable[[str], None] | None = None,
    ) -> list[Generation]: ...

    def generate(
        self,
        prompt: str | Sequence[int] | list[str] | tuple[str, ...],
        max_new_tokens: int = 64,
        *,
        chat: bool = False,
        on_text: Callable[[str], None] | None = None,
    ) -> Generation | list[Generation]:
        """Continue a prompt greedily, at most `max_new_tokens` tokens or up to a stop token.

        prompt: text, token ids, or a list of texts (answered one after another). `chat` wraps the
        text in the model's chat template. `on_text` gets the text as it comes. Raises MpkirError
        for a prompt that does not fit, or where text is given and there is no tokenizer.
        """
        if isinstance(prompt, str):
            return self._continue(self.encode(prompt, chat=chat), max_new_tokens, on_text)
        if prompt and isinstance(prompt[0], str):
            return [
                self._continue(self.encode(str(text), chat=chat), max_new_tokens, on_text)
                for text in prompt
            ]
        return self._continue([int(token) for token in prompt], max_new_tokens, on_text)

    def encode(self, text: str, *, chat: bool = False) -> list[int]:
        """Token ids of a text, or of a user's message in the model's chat template."""
        tokenizer = self._tokenizer()
        if not chat:
            return list(tokenizer(text)["input_ids"])
        message = [{"role": "user", "content": text}]
        encoded = tokenizer.apply_chat_template(
            message, add_generation_prompt=True, return_dict=True
        )
        return list(encoded["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, without special tokens; "" where there is no tokenizer."""
        if self.tokenizer is None:
            return ""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """Logits after each of the tokens, f32 [tokens, vocabulary], on the CPU."""
        self._start(tokens, len(tokens))
        rows: list[torch.Tensor] = []
        for position in range(len(tokens)):
            self.program.run(position, 1)
            rows.append(self.program.buffer(self.roles.logits).float().cpu().reshape(-1).clone())
        return torch.stack(rows)

    def _continue(
        self, prompt: Sequence[int], count: int, on_text: Callable[[str], None] | None
    ) -> Generation:
        if count < 1:
            raise MpkirError(f"max_new_tokens must be at least 1, got {count}")
        self._start(prompt, len(prompt) + count - 1)
        begun = perf_counter()
        self.program.run(0, len(prompt))
        first = perf_counter()
        end = len(prompt) + count
        known = len(prompt) + 1
        shown = self._show("", prompt, known, on_text)
        while known < end and self._token(known - 1) not in self.roles.stop_tokens:
            steps = min(self.burst if on_text else end - known, end - known)
            done = self.program.run(known - 1, steps)
            known += done
            shown = self._show(shown, prompt, known, on_text)
            if done < steps:
                break
        finished = perf_counter()
        tokens = self._tokens()[len(prompt) : known].tolist()
        text = self.decode(tokens)
        if on_text is not None and text != shown and text.startswith(shown):
            on_text(text[len(shown) :])
        return Generation(text, tuple(tokens), len(prompt), first - begun, finished - first)

    def _start(self, tokens: Sequence[int], positions: int) -> None:
        """Put a prompt at the beginning of the token sequence."""
        if not tokens:
            raise MpkirError("the prompt is empty", hint="give at least one token")
        if positions > self.capacity:
            raise MpkirError(
                f"{len(tokens)} prompt tokens and {positions - len(tokens) + 1} new ones need "
                f"{positions} positions, the program has {self.capacity}",
                hint="ask for fewer tokens, or compile with a larger capacity",
            )
        wrong = [token for token in tokens if not 0 <= token < self.roles.vocabulary]
        if wrong:
            raise MpkirError(
                f"token {wrong[0]} is outside the vocabulary of {self.roles.vocabulary}"
            )
        sequence = self._tokens()
        sequence.fill_(-1)
        sequence[: len(tokens)] = torch.tensor(tokens, dtype=torch.int64, device=sequence.device)

    def _tokens(self) -> torch.Tensor:
        return self.program.buffer(self.roles.tokens)

    def _token(self, position: int) -> int:
        return int(self._tokens()[position])

    def _show(
        self,
        shown: str,
        prompt: Sequence[int],
        known: int,
        on_text: Callable[[str], None] | None,
    ) -> str:
        """Pass on the text that is new; an unfinished character waits for its rest."""
        if on_text is None:
            return shown
        text = self.decode(self._tokens()[len(prompt) : known].tolist())
        if text.endswith("\N{REPLACEMENT CHARACTER}") or not text.startswith(shown):
            return shown
        if len(text) > len(shown):
            on_text(text[len(shown) :])
        return text

    def _tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise MpkirError(
                "the artifact holds no tokenizer, so it takes token ids only",
                where=str(self.program.artifact.path),
            )
        return self.tokenizer


def _tokenizer_of(directory: Path) -> Any:
    if not directory.is_dir():
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, local_files_only=True)
