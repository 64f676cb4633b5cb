"""Every pass of the pipeline keeps a model's numbers, whatever level it leaves the program at.

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
from mpkir.pipeline import context, stages

VOCABULARY = 256


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
