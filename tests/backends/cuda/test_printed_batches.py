"""A printed batch: each sequence goes as it does alone, on stand-ins or on a GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from mpkir.dialects import task
from mpkir.frontend import decode_step, weights_of
from mpkir.machine import machine_named
from mpkir.pipeline import lower
from mpkir.tools.ablations import ablations_named
from mpkir.variant import Variant

STEPS = 40
PROMPTS = ([3, 1, 4, 15], [9], [2, 6, 5, 35, 8, 97, 93])
_CONFIG = LlamaConfig(
    num_hidden_layers=1,
    vocab_size=160,
    hidden_size=64,
    intermediate_size=96,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=512,
)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(_CONFIG, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
    return model


def run(
    model: Any,
    make: Any,
    batch: int,
    prompts: Any,
    stop: Any = (),
    variant: Variant = Variant(),
    steps: int = STEPS,
) -> tuple[Any, Any, int]:
    """Tokens [batch, 49], logits [batch, V] and the number of steps of one launch."""
    machine = machine_named("h100", workers=5)
    machine = replace(machine, tiles=replace(machine.tiles, attention_chunk=16, attention_bytes=0))
    machine = variant.machine_of(machine)
    module = decode_step(model, 48, stop=stop, batch=batch)
    lower(module, machine, variant=variant)
    panels = {
        op.panels.group for op in module.walk() if isinstance(op, task.BufferOp) and op.panels
    }
    rows = ("mpk-lay-out-flags", "panels", False)
    assert panels == ({8, 32} if batch > task.FEW_TOKENS and rows not in variant.options else set())
    program = make(module, machine)
    program.bind(weights_of(model))
    program.bind(dict(model.named_buffers()))
    tokens = program.buffers["tokens"].view(batch, -1)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    done = program.run(0, steps)
    return tokens.cpu(), program.buffers["logits"].cpu().view(batch, -1), done


@pytest.mark.parametrize(
    "where", [pytest.param("on_host"), pytest.param("on_gpu", marks=pytest.mark.cuda)]
)
def test_rows_are_what_each_is_alone(
    model: Any, where: str, request: pytest.FixtureRequest
) -> None:
    make = request.getfixturevalue(where)
    tokens, logits, done = run(model, make, 3, PROMPTS)
    assert done == STEPS
    for row, prompt in enumerate(PROMPTS):
        alone, own, _ = run(model, make, 1, [prompt])
        assert torch.equal(tokens[row], alone[0])
        torch.testing.assert_close(logits[row], own[0], rtol=0, atol=2e-2)


@pytest.mark.parametrize("batch", [3, 5, 8, 16])
@pytest.mark.parametrize(
    "where", [pytest.param("on_host"), pytest.param("on_gpu", marks=pytest.mark.cuda)]
)
def test_panels_change_no_bit(
    model: Any, where: str, batch: int, request: pytest.FixtureRequest
) -> None:
    make = request.getfixturevalue(where)
    prompts = [[3 + row, 1, 4 * row] for row in range(batch)]
    panels, rows = ablations_named(["no-planes", "no-panels"])
    tokens, logits, done = run(model, make, batch, prompts, variant=panels.variant, steps=20)
    plain, own, _ = run(model, make, batch, prompts, variant=rows.variant, steps=20)
    assert done == 20
    assert torch.equal(tokens, plain)
    assert torch.equal(logits, own)
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    "where", [pytest.param("on_host"), pytest.param("on_gpu", marks=pytest.mark.cuda)]
)
def test_planes_change_little(model: Any, where: str, request: pytest.FixtureRequest) -> None:
    make = request.getfixturevalue(where)
    prompts = [[3 + row, 1, 4 * row] for row in range(8)]
    (floats,) = ablations_named(["no-planes"])
    _, close, _ = run(model, make, 8, prompts, steps=3)
    _, logits, _ = run(model, make, 8, prompts, variant=floats.variant, steps=3)
    assert not torch.equal(close, logits)
    # Products take 8 bits of a number, sums 16.
    torch.testing.assert_close(close, logits, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    "where", [pytest.param("on_host"), pytest.param("on_gpu", marks=pytest.mark.cuda)]
)
def test_the_last_row_to_stop_ends_the_launch(
    model: Any, where: str, request: pytest.FixtureRequest
) -> None:
    make = request.getfixturevalue(where)
    free, _, _ = run(model, make, 3, PROMPTS)
    generated = [row[len(prompt) :].tolist() for row, prompt in zip(free, PROMPTS, strict=True)]
    stop = {generated[0][2], generated[1][5], generated[2][4]}
    tokens, _, done = run(model, make, 3, PROMPTS, stop=sorted(stop))
    ends: list[int] = []
    for row, prompt in enumerate(PROMPTS):
        first = next(i for i, token in enumerate(generated[row]) if token in stop)
        end = len(prompt) + first
        assert torch.equal(tokens[row, : end + 1], free[row, : end + 1])
        assert tokens[row, end + 1] == -2
        ends.append(end)
    assert done == max(ends)


@pytest.mark.parametrize("batch", [1, 3, 16])
@pytest.mark.parametrize(
    "where", [pytest.param("on_host"), pytest.param("on_gpu", marks=pytest.mark.cuda)]
)
def test_what_a_product_keeps_chooses_the_same_tokens(
    model: Any, where: str, batch: int, request: pytest.FixtureRequest
) -> None:
    """As reading all logits again does: the best of 8 joined in parts, and of 32 merged at once."""
    make = request.getfixturevalue(where)
    prompts = [[3 + row, 1, 4 * row] for row in range(batch)]
    found = [
        run(model, make, batch, prompts, variant=_best_of(best, chunks), steps=20)
        for best, chunks in ((0, 132), (8, 6), (32, 132))
    ]
    for tokens, logits, done in found:
        assert done == 20
        assert torch.equal(tokens, found[0][0])
        assert torch.equal(logits, found[0][1])


def _best_of(best: int, chunks: int) -> Variant:
    return Variant(machine=(("tiles.argmax_best_of", best), ("tiles.argmax_chunks", chunks)))
