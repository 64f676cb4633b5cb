"""SmolLM2 with its real weights: the CPU's megakernel, and the same tasks in the interpreter."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from mpkir.backends.interpreter import event_level, memory
from mpkir.frontend import LoadedModel


@pytest.fixture(scope="session")
def computed(smollm2_case):
    """From the CPU's megakernel: logits at the wanted positions, and the states in the end."""
    case, program = smollm2_case, smollm2_case.on_cpu().program
    program.buffer("tokens")[: len(case.tokens)] = case.tokens
    done, rows = 0, []
    for position in case.positions:
        program.run(done, position + 1 - done)
        rows.append(program.buffer("logits").reshape(-1).numpy().copy())
        done = position + 1
    names = [buffer.name for buffer in program.manifest.buffers if buffer.kind == "state"]
    return np.stack(rows), {name: as_array(program.buffer(name).clone()) for name in names}


def test_logits_on_the_cpu(smollm2_case, computed):
    smollm2_case.check_logits(computed[0])


def test_logits_at_event_level(smollm2_case, computed):
    """Steps of the interpreter, each after the caches that the CPU has filled up to there.

    The interpreter has three workers in random order and looks for races.
    """
    case, (from_cpu, filled) = smollm2_case, computed
    module = case.scheduled("cpu", workers=3)
    program = event_level.EventProgram(module, case.weights)
    rows = []
    for position in case.positions:
        states = memory.initial_states(module)
        caches = states.keys() - {"tokens"}
        states["tokens"][: position + 1] = filled["tokens"][: position + 1]
        for name in caches:
            states[name][:, :, :position] = filled[name][:, :, :position]
        run = program.run(states, {}, position, seed=position)
        rows.append(run.outputs["logits"].reshape(-1))
        assert states["tokens"][position + 1] == rows[-1].argmax()
        assert all(states[name][:, :, position].any(axis=(0, 2)).all() for name in caches)
    logits = np.stack(rows)
    case.check_logits(logits)
    apart = np.abs(logits - from_cpu).max(axis=1)
    assert (apart <= np.abs(case.rounded - case.exact).max(axis=1)).all()


def test_greedy_tokens_on_the_cpu(smollm2_case):
    prompt = smollm2_case.tokens[:40]
    generation = smollm2_case.on_cpu().generate(prompt.tolist(), max_new_tokens=64)
    assert len(generation.tokens) == 64
    smollm2_case.check_greedy(torch.cat([prompt, torch.tensor(generation.tokens)]), prompt=40)


def test_it_answers(smollm2: LoadedModel, smollm2_case):
    """The whole of it as a user sees it, the end of the answer included."""
    template = smollm2.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_dict=True,
    )
    prompt = list(template["input_ids"])
    tokens = smollm2_case.on_cpu().generate(prompt, max_new_tokens=16).tokens
    assert "Paris" in smollm2.tokenizer.decode(tokens)


def as_array(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
