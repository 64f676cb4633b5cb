"""Every architecture, in the interpreter at event level and on the CPU: logits, greedy tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mpkir.backends.interpreter import event_level, memory


@pytest.fixture(scope="session")
def interpreted(case):
    """An H100's schedule for three workers, played task by task: logits at the wanted positions.

    Attention is split, weights pass through the ring. A launch of many steps leads from each
    position to the next, the workers interleaved at random and every access checked for races.
    """
    module = case.scheduled("h100", workers=3)
    program = event_level.EventProgram(module, case.weights)
    states = memory.initial_states(module)
    states["tokens"][: len(case.tokens)] = case.tokens.numpy()
    done, rows = 0, []
    for position in case.positions:
        if position > done:
            program.run(states, {}, done, steps=position - done, seed=position)
        run = program.run(states, {}, position, seed=position + 1)
        rows.append(run.outputs["logits"].reshape(-1))
        done = position + 1
    return np.stack(rows)


@pytest.fixture(scope="session")
def computed(case):
    """Logits at the wanted positions from the CPU's megakernel on two threads."""
    logits = case.on_cpu().logits(case.tokens.tolist()).numpy()
    return logits[list(case.positions)]


def test_logits_at_event_level(case, interpreted):
    case.check_logits(interpreted)


def test_logits_on_the_cpu(case, computed):
    case.check_logits(computed)


def test_interpreter_and_cpu_agree(case, interpreted, computed):
    """They differ in the order of sums only, which is less than what bf16 loses."""
    apart = np.abs(computed - interpreted).max(axis=1)
    assert (apart <= np.abs(case.rounded - case.exact).max(axis=1)).all()


def test_greedy_tokens_on_the_cpu(case):
    """64 tokens in one launch, then each with what preceded it against the truth."""
    prompt = case.tokens[:5]
    generation = case.on_cpu().generate(prompt.tolist(), max_new_tokens=64)
    assert len(generation.tokens) == 64
    case.check_greedy(torch.cat([prompt, torch.tensor(generation.tokens)]), prompt=5)


def greedy_at_event_level(case, order):
    """The first 69 tokens of a sequence that begins with 5 given ones: five workers, one launch."""
    module = case.scheduled("cpu", workers=5, capacity=80)
    states = memory.initial_states(module)
    states["tokens"][:5] = case.tokens[:5].numpy()
    program = event_level.EventProgram(module, case.weights)
    assert program.run(states, {}, 0, steps=68, seed=7, order=order).steps_done == 68
    return torch.from_numpy(states["tokens"][:69].copy())


def test_greedy_tokens_at_event_level(case):
    case.check_greedy(greedy_at_event_level(case, "random"), prompt=5)


def test_consumers_as_early_as_events_let_them(make_case):
    case = make_case("qwen3")
    sequence = greedy_at_event_level(case, "eager")
    case.check_greedy(sequence, prompt=5)
    assert sequence.equal(greedy_at_event_level(case, "random")), "order never changes a bit"
