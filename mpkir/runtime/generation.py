"""Generating text with a loaded program: prompts in, tokens and text out. Needs no compiler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import repeat, takewhile
from pathlib import Path
from time import perf_counter
from typing import Any, overload

import torch

from mpkir.errors import MpkirError
from mpkir.runtime.program import Program, load
from mpkir.runtime.ranks.agreement import check_alike

TOKENIZER = "tokenizer"
"""Folder of an artifact that holds the tokenizer's files."""
UNKNOWN = -1
"""Stands in a token sequence where a step may write the token that it chooses."""
ENDED = -2
"""Stands in one of several sequences where it takes no more tokens: the launch ends when all do."""


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
    """From there to the last, of all prompts that were answered at once."""

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
        self.burst = 1 if program.tells or program.manifest.target.kind == "cpu" else 16
        """Steps after which more text is shown: as many are in one launch, if the program tells
        nothing while a launch goes on."""

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
        prompt: list[str] | tuple[str, ...] | list[list[int]],
        max_new_tokens: int = 64,
        *,
        chat: bool = False,
        on_text: Callable[[str], None] | None = None,
    ) -> list[Generation]: ...

    def generate(
        self,
        prompt: str | Sequence[int] | list[str] | tuple[str, ...] | list[list[int]],
        max_new_tokens: int = 64,
        *,
        chat: bool = False,
        on_text: Callable[[str], None] | None = None,
    ) -> Generation | list[Generation]:
        """Continue a prompt greedily, at most `max_new_tokens` tokens or up to a stop token.

        prompt: text, token ids, or a list of either, of which as many are answered at once as the
        program was compiled for. `chat` wraps the text in the model's chat template. `on_text` gets
        the text as it comes; of prompts answered at once each answer whole, in their order. Raises
        MpkirError for a prompt that does not fit, or where text is given and there is no tokenizer.
        """
        if isinstance(prompt, str):
            return self._answer([self.encode(prompt, chat=chat)], max_new_tokens, on_text)[0]
        if not prompt or isinstance(prompt[0], int):
            ids = [int(token) for token in prompt if not isinstance(token, str | list)]
            return self._answer([ids], max_new_tokens, on_text)[0]
        prompts = [
            self.encode(one, chat=chat) if isinstance(one, str) else list(one)
            for one in prompt
            if not isinstance(one, int)
        ]
        answers: list[Generation] = []
        for first in range(0, len(prompts), self.roles.batch):
            together = prompts[first : first + self.roles.batch]
            answers += self._answer(together, max_new_tokens, on_text)
        return answers

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
        self._start([tokens], 1)
        rows: list[torch.Tensor] = []
        for position in range(len(tokens)):
            self.program.run(position, 1)
            logits = self.program.output(self.roles.logits).reshape(self.roles.batch, -1)
            rows.append(logits[0].float().cpu().clone())
        return torch.stack(rows)

    def _answer(
        self,
        prompts: Sequence[Sequence[int]],
        count: int,
        on_text: Callable[[str], None] | None,
    ) -> list[Generation]:
        """Answer prompts, at most as many as the program decodes at once, in one go."""
        if count < 1:
            raise MpkirError(f"max_new_tokens must be at least 1, got {count}")
        self._start(prompts, count)
        lengths = [len(prompt) for prompt in prompts]
        stream = on_text if len(prompts) == 1 else None
        rows: list[list[int]] = [[] for _ in prompts]
        firsts: dict[int, float] = {}
        shown = ""
        begun = perf_counter()
        with closing(self.program.stream(self._looks(lengths, count, stream))) as pieces:
            for piece in pieces:
                now = perf_counter()
                for row, tokens in zip(rows, piece, strict=False):
                    row += tokens
                if len(rows[0]) in lengths:
                    firsts[len(rows[0])] = now
                answers = [_answer_in(row, n, count) for row, n in zip(rows, lengths, strict=True)]
                shown = self._show(shown, answers[0], stream)
                if all(map(self._is_done, answers, repeat(count))):
                    break
        finished = perf_counter()
        results: list[Generation] = []
        for row, length in zip(rows, lengths, strict=True):
            tokens = _answer_in(row, length, count)
            text, first = self.decode(tokens), firsts[length]
            if on_text is not None and text != shown and text.startswith(shown):
                on_text(text[len(shown) :])
            results.append(Generation(text, tuple(tokens), length, first - begun, finished - first))
        return results

    def _looks(
        self, lengths: Sequence[int], count: int, stream: Callable[[str], None] | None
    ) -> list[int]:
        """At which places the host looks at the sequences: where a prompt ends, and where more of
        an answer is shown."""
        last = max(lengths)
        end = last + count - 1
        # All ranks have to make the same launches, whether they show the text or not.
        often = stream is not None or self.program.group is not None
        return sorted({*lengths, *(range(last, end, self.burst) if often else ()), end})

    def _start(self, prompts: Sequence[Sequence[int]], count: int) -> None:
        """Put prompts at the beginning of the token sequences, to be continued by `count`."""
        for tokens in prompts:
            self._check_prompt(tokens, len(tokens) + count - 1)
        if self.program.group is not None:
            check_alike(self.program.group, "prompts", repr((list(map(list, prompts)), count)))
        rows = self._rows()
        rows.fill_(UNKNOWN)
        for row, tokens in zip(rows, prompts, strict=False):
            row[: len(tokens)] = torch.tensor(tokens, dtype=torch.int64, device=row.device)
            if len(rows) > 1:
                row[len(tokens) + count :] = ENDED
        rows[len(prompts) :] = ENDED

    def _check_prompt(self, tokens: Sequence[int], positions: int) -> None:
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

    def _rows(self) -> torch.Tensor:
        """The token sequences, int64 [batch, capacity + 1]."""
        return self.program.buffer(self.roles.tokens).view(self.roles.batch, -1)

    def _is_done(self, answer: Sequence[int], count: int) -> bool:
        return len(answer) == count or any(token in self.roles.stop_tokens for token in answer[-1:])

    def _show(
        self, shown: str, answer: Sequence[int], on_text: Callable[[str], None] | None
    ) -> str:
        """Pass on the text that is new; an unfinished character waits for its rest."""
        if on_text is None:
            return shown
        text = self.decode(answer)
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


def _answer_in(row: Sequence[int], start: int, count: int) -> list[int]:
    """What stands behind a prompt of `start` tokens, up to a place that has none.

    row   what stands behind the first token
    """
    return list(takewhile(lambda token: token >= 0, row[start - 1 : start - 1 + count]))


def _tokenizer_of(directory: Path) -> Any:
    if not directory.is_dir():
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, local_files_only=True)
