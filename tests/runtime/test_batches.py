"""Several sequences in lock-step: each gets the greedy tokens that it gets alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mpkir import LanguageModel
from mpkir.backends.interpreter import event_level, memory
from mpkir.errors import MpkirError
from mpkir.frontend import decode_step, weights_of
from mpkir.machine import machine_named
from mpkir.pipeline import lower
from mpkir.runtime.generation import LoadedLanguageModel

CAPACITY = 48
NEW = 12
_SHAPE: dict[str, Any] = dict(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=256,
)


class Bytes:
    """A tokenizer whose every token is one byte."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode())}

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool) -> str:
        return bytes(tokens).decode("latin-1")


@dataclass(frozen=True)
class Case:
    """A model in fp32, prompts of different lengths and what PyTorch makes of each."""

    model: Any
    prompts: list[list[int]]
    wanted: list[tuple[int, ...]]


def greedy(model: Any, prompt: list[int], count: int) -> tuple[int, ...]:
    tokens = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tuple(tokens[len(prompt) :])


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPKIR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def cases(random_model: Callable[..., Any]) -> dict[str, Case]:
    made: dict[str, Case] = {}
    for name, config in (
        ("llama", transformers.LlamaConfig(**_SHAPE)),
        ("qwen3", transformers.Qwen3Config(**_SHAPE)),
    ):
        model = random_model(config, torch.float32, seed=len(made))
        prompts = [torch.randint(0, 256, (2 + 5 * row % 9,)).tolist() for row in range(8)]
        made[name] = Case(model, prompts, [greedy(model, prompt, NEW) for prompt in prompts])
    return made


def compiled(case: Case, batch: int, path: Path, stop: Sequence[int] = ()) -> LanguageModel:
    return LanguageModel.from_model(
        case.model, capacity=CAPACITY, batch=batch, workers=2, stop=stop, output=path
    )


@pytest.mark.parametrize(("name", "batch"), [("llama", 3), ("qwen3", 2), ("qwen3", 8)])
def test_answers_are_those_of_each_prompt_alone(
    cases: dict[str, Case], name: str, batch: int, tmp_path: Path
):
    """Eight prompts, so that 3 and 2 at once take several rounds, the last of 3 not full."""
    case = cases[name]
    compiled(case, batch, tmp_path / "many")
    lm = LoadedLanguageModel.load(tmp_path / "many", weights_of(case.model))
    assert lm.roles.batch == batch
    assert lm.program.buffer("tokens").shape == (batch, CAPACITY + 1)
    for _ in range(2):
        answers = lm.generate(case.prompts, max_new_tokens=NEW)
        assert [answer.tokens for answer in answers] == case.wanted
        assert [answer.prompt_tokens for answer in answers] == [len(p) for p in case.prompts]


def test_a_row_goes_on_until_all_have_stopped(cases: dict[str, Case], tmp_path: Path):
    case = cases["llama"]
    stop = sorted({case.wanted[0][2], case.wanted[1][7], case.wanted[2][4]})
    lm = compiled(case, 3, tmp_path / "stops", stop)
    answers = lm.generate(case.prompts[:3], max_new_tokens=NEW)
    for answer, wanted in zip(answers, case.wanted, strict=False):
        first = next(i for i, token in enumerate(wanted) if token in stop)
        assert answer.tokens == wanted[: first + 1]
    ends = [len(p) + len(a.tokens) for p, a in zip(case.prompts, answers, strict=False)]
    sequences = lm.program.buffer("tokens")
    for row, end in enumerate(ends):
        assert sequences[row, end] == -2
    lm.program.reset()
    for row, prompt in enumerate(case.prompts[:3]):
        sequences[row, : len(prompt)] = torch.tensor(prompt)
    assert lm.program.run(0, CAPACITY) == max(ends) - 1
    lm.program.reset()
    sequences[0, : len(case.prompts[0])] = torch.tensor(case.prompts[0])
    sequences[1:] = -2
    assert lm.program.run(0, CAPACITY) == ends[0] - 1, "rows that are not used never hold it up"


def test_one_prompt_is_streamed_and_several_come_whole(cases: dict[str, Case], tmp_path: Path):
    case = cases["qwen3"]
    lm = compiled(case, 2, tmp_path / "two")
    lm.tokenizer = Bytes()
    pieces: list[str] = []
    alone = lm.generate(case.prompts[3], max_new_tokens=NEW, on_text=pieces.append)
    assert alone.tokens == case.wanted[3]
    assert len(pieces) > 2
    assert "".join(pieces) == alone.text
    pieces.clear()
    answers = lm.generate(case.prompts[:2], max_new_tokens=NEW, on_text=pieces.append)
    assert pieces == [answer.text for answer in answers]
    last = case.prompts[0] * ((CAPACITY + 1) // len(case.prompts[0]))
    last = last[: CAPACITY - 3]
    assert lm.generate([last, [1]], max_new_tokens=4)[0].tokens == greedy(case.model, last, 4)
    with pytest.raises(MpkirError, match=r"45 prompt tokens and 5 new ones need 49 positions"):
        lm.generate([[1], last], max_new_tokens=5)
    with torch.no_grad():
        exact = case.model(torch.tensor([case.prompts[1]])).logits[0]
    torch.testing.assert_close(lm.logits(case.prompts[1]), exact, rtol=1e-3, atol=1e-3)


def test_event_level_agrees(cases: dict[str, Case]):
    """An H100's schedule, its workers interleaved at random and every access checked for races."""
    case, batch = cases["qwen3"], 3
    stop = [case.wanted[1][6], case.wanted[0][9], case.wanted[2][3]]
    module = decode_step(case.model, CAPACITY, stop=stop, batch=batch)
    lower(module, machine_named("h100", workers=5))
    weights = {name: tensor.detach().numpy() for name, tensor in weights_of(case.model).items()}
    states = memory.initial_states(module)
    for row, prompt in enumerate(case.prompts[:batch]):
        states["tokens"][row, : len(prompt)] = prompt
    run = event_level.EventProgram(module, weights).run(states, {}, 0, steps=CAPACITY, seed=1)
    ends: list[int] = []
    for row, prompt in enumerate(case.prompts[:batch]):
        wanted = case.wanted[row]
        length = 1 + next(i for i, token in enumerate(wanted) if token in stop)
        ends.append(len(prompt) + length)
        assert tuple(states["tokens"][row, len(prompt) : ends[-1]]) == wanted[:length]
    assert run.steps_done == max(ends) - 1


def test_a_batch_has_at_least_one_sequence(cases: dict[str, Case]):
    with pytest.raises(MpkirError, match="a batch of 0 sequences"):
        decode_step(cases["llama"].model, CAPACITY, batch=0)
