"""Real architectures down the whole pipeline: every pass keeps the numbers, races are none.

The rule for logits: no further from the fp32 model than 1.5 times PyTorch's own bf16.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from xdsl.dialects.builtin import ModuleOp

from mpkir.backends.interpreter import event_level, memory, task_level, tensor_level
from mpkir.dialects import event, task
from mpkir.frontend import decode_step
from mpkir.machine import machine_named
from mpkir.pipeline import context, lower, stages

VOCABULARY = 256
ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "smollm2")


def references(model, tokens: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Logits [n, V] of the fp32 model and of PyTorch's bf16."""
    with torch.no_grad():
        exact = copy.deepcopy(model.torch).float()(tokens[None]).logits[0]
        rounded = model.torch(tokens[None]).logits[0].float()
    return exact.numpy(), rounded.numpy()


def assert_follows_rule(logits: np.ndarray, exact: np.ndarray, rounded: np.ndarray) -> None:
    assert np.abs(logits - exact).mean() <= 1.5 * np.abs(rounded - exact).mean()


def states_with(states: dict[str, np.ndarray], prompt: torch.Tensor) -> dict[str, np.ndarray]:
    states["tokens"][: len(prompt)] = prompt.numpy()
    return states


def run_lowest_level(module: ModuleOp, model, prompt: torch.Tensor):
    """Logits [n, V] and states after a prompt, at the level that the module has reached."""
    n = len(prompt)
    if not any(isinstance(op, task.GridOp) for op in module.walk()):
        states = states_with(tensor_level.initial_states(module), prompt)
        program = tensor_level.TensorProgram(module, model.weights)
        outputs = [program.step(states, {}, p)["logits"] for p in range(n)]
    elif not any(isinstance(op, event.TensorOp) for op in module.walk()):
        states = states_with(memory.initial_states(module), prompt)
        program = task_level.TaskProgram(module, model.weights)
        outputs = [program.step(states, {}, p)["logits"] for p in range(n)]
    else:
        states = states_with(memory.initial_states(module), prompt)
        program = event_level.EventProgram(module, model.weights)
        outputs = [program.run(states, {}, p, seed=p).outputs["logits"] for p in range(n)]
    return np.concatenate([x.reshape(1, VOCABULARY) for x in outputs]), states


@pytest.mark.parametrize("architecture", ["qwen3", "smollm2"])
def test_every_pass_keeps_the_numbers(make_model, architecture: str) -> None:
    model = make_model(architecture)
    prompt = torch.randint(0, VOCABULARY, (6,))
    exact, rounded = references(model, prompt)
    module, ctx = decode_step(model.torch, capacity=32), context()
    before = None
    for stage in stages(machine_named("h100", workers=5)):
        stage.apply(ctx, module)
        module.verify()
        logits, states = run_lowest_level(module, model, prompt)
        assert_follows_rule(logits, exact, rounded)
        if any(isinstance(op, task.GridOp) for op in module.walk()):
            # From here on tiles are fixed: the very same bits, whatever the order.
            if before is not None:
                np.testing.assert_array_equal(logits, before, err_msg=stage.name)
            before = logits
        assert states["tokens"][6] >= 0, "the next token has been appended"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_at_event_level(make_model, architecture: str) -> None:
    """At several positions, a launch of many steps between them, workers in random order."""
    model = make_model(architecture)
    tokens = torch.randint(0, VOCABULARY, (501,))
    exact, rounded = references(model, tokens)
    module = decode_step(model.torch, capacity=512)
    lower(module, machine_named("h100", workers=7))
    program = event_level.EventProgram(module, model.weights)
    states = states_with(memory.initial_states(module), tokens)
    done, logits, wanted = 0, [], [0, 1, 63, 64, 500]
    for position in wanted:
        if position > done:
            program.run(states, {}, done, steps=position - done, seed=position)
        run = program.run(states, {}, position, seed=1)
        logits.append(run.outputs["logits"].reshape(VOCABULARY))
        done = position + 1
    assert_follows_rule(np.stack(logits), exact[wanted], rounded[wanted])


@pytest.mark.parametrize("order", ["random", "eager"])
def test_greedy_tokens_in_one_launch(make_model, order) -> None:
    """64 tokens after a prompt; each is the reference's choice unless that was a close one."""
    model = make_model("llama")
    prompt = torch.randint(0, VOCABULARY, (5,))
    module = decode_step(model.torch, capacity=80)
    lower(module, machine_named("h100", workers=7))
    states = states_with(memory.initial_states(module), prompt)
    run = event_level.run_steps(
        module, model.weights, states, {}, 0, steps=5 + 63, seed=3, order=order
    )
    assert run.steps_done == 68
    sequence = states["tokens"][:69]
    assert (sequence >= 0).all()
    exact, rounded = references(model, torch.from_numpy(sequence))
    error = np.abs(rounded - exact).max(axis=1)
    for position in range(4, 68):
        best = exact[position].max()
        chosen = exact[position, sequence[position + 1]]
        assert best - chosen <= 2 * error[position], f"token after position {position}"
