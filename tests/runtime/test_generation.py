"""Generation: greedy tokens, stop tokens, streaming, whatever the number of steps in a launch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mpkir import LanguageModel
from mpkir.runtime.generation import LoadedLanguageModel

PROMPT = [3, 1, 4, 1, 5]


class Bytes:
    """A tokenizer whose every token is one byte: characters may need several."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode())}

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool) -> str:
        return bytes(tokens).decode(errors="replace")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """transformers' model and where its artifact lies."""
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=256,
        max_position_embeddings=128,
        initializer_range=0.5,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    path = tmp_path_factory.mktemp("made") / "llama"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPKIR_CACHE", str(path.parent / "cache"))
        LanguageModel.from_model(model, capacity=64, output=path)
        yield model, path


def greedy(model: Any, count: int) -> tuple[int, ...]:
    """What transformers generates, without a cache and without stop tokens."""
    tokens = list(PROMPT)
    for _ in range(count):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tuple(tokens[len(PROMPT) :])


@pytest.fixture
def loaded(made: Any) -> LoadedLanguageModel:
    return LoadedLanguageModel.load(made[1])


def test_tokens_are_the_greedy_ones(made: Any, loaded: LoadedLanguageModel):
    for _ in range(2):
        answer = loaded.generate(PROMPT, max_new_tokens=16)
        assert answer.tokens == greedy(made[0], 16)
        assert answer.prompt_tokens == len(PROMPT)
        assert answer.tokens_per_second > 0


def test_logits_are_those_of_every_position(made: Any, loaded: LoadedLanguageModel):
    with torch.no_grad():
        expected = made[0](torch.tensor([PROMPT])).logits[0]
    torch.testing.assert_close(loaded.logits(PROMPT), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("burst", [1, 3, 16])
def test_streamed_pieces_make_the_text(loaded: LoadedLanguageModel, burst: int):
    loaded.tokenizer = Bytes()
    loaded.burst = burst
    pieces: list[str] = []
    answer = loaded.generate(PROMPT, max_new_tokens=20, on_text=pieces.append)
    whole = loaded.generate(PROMPT, max_new_tokens=20)
    assert answer.tokens == whole.tokens
    assert answer.text == whole.text
    assert "".join(pieces) == answer.text


class Telling:
    """A launcher that says tokens while a run goes on, from one that does not."""

    tells = True

    def __init__(self, loaded: LoadedLanguageModel) -> None:
        self.inner, self.rows = loaded.program.launcher, loaded.program.buffer(loaded.roles.tokens)
        self.launches: list[tuple[int, int]] = []
        self.ended: list[int] = []
        self.done = 0

    def run(self, position: int, steps: int) -> int:
        return self.inner.run(position, steps)

    def launch(self, position: int, steps: int) -> None:
        self.launches.append((position, steps))
        self.done = self.inner.run(position, steps)

    def told(self, step: int) -> list[int] | None:
        place = self.launches[-1][0] + step + 1
        return [int(self.rows[place])] if step < self.done else None

    def finish(self, steps: int) -> int:
        self.ended.append(steps)
        return self.done


@pytest.mark.parametrize("shown", [False, True])
def test_where_tokens_are_told_one_launch_makes_the_text(made: Any, shown: bool):
    plain, telling = LoadedLanguageModel.load(made[1]), LoadedLanguageModel.load(made[1])
    launcher = telling.program.launcher = Telling(telling)
    telling.tokenizer = plain.tokenizer = Bytes()
    pieces: list[str] = []
    answer = telling.generate(PROMPT, max_new_tokens=20, on_text=pieces.append if shown else None)
    assert answer.tokens == plain.generate(PROMPT, max_new_tokens=20).tokens
    assert "".join(pieces) == (answer.text if shown else "")
    assert launcher.launches == [(0, len(PROMPT) + 19)]


def test_a_launch_is_waited_for_where_showing_its_text_fails(made: Any):
    telling = LoadedLanguageModel.load(made[1])
    launcher = telling.program.launcher = Telling(telling)
    telling.tokenizer = Bytes()

    def closed(text: str) -> None:
        raise OSError("closed")

    with pytest.raises(OSError, match="closed"):
        telling.generate(PROMPT, max_new_tokens=5, on_text=closed)
    assert launcher.ended == [len(PROMPT) + 4]


def test_a_stop_token_ends_the_answer(made: Any, tmp_path: Path):
    model = made[0]
    wanted = greedy(model, 12)
    stop = wanted[5]
    first = wanted.index(stop)
    lm = LanguageModel.from_model(model, capacity=64, stop=(stop,), output=tmp_path / "stops")
    for launcher in (lm.program.launcher, Telling(lm)):
        lm.program.launcher = launcher
        for on_text, burst in ((None, 1), (str, 1), (str, 4), (str, 16)):
            lm.burst = burst
            answer = lm.generate(PROMPT, max_new_tokens=12, on_text=on_text)
            assert answer.tokens == wanted[: first + 1]


def test_a_stop_token_in_the_prompt_is_read_over(made: Any, tmp_path: Path):
    model = made[0]
    lm = LanguageModel.from_model(model, capacity=64, stop=(PROMPT[1],), output=tmp_path / "stops")
    wanted = greedy(model, 4)
    assert lm.generate(PROMPT, max_new_tokens=4).tokens[0] == wanted[0]


def test_several_prompts_are_answered_one_after_another(loaded: LoadedLanguageModel):
    loaded.tokenizer = Bytes()
    answers = loaded.generate(["abc", "d"], max_new_tokens=4)
    assert [answer.prompt_tokens for answer in answers] == [3, 1]
    assert answers[1].tokens == loaded.generate("d", max_new_tokens=4).tokens
