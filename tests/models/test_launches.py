"""What does not depend on the model: launches, repetition, many workers, the GPU's own schedule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from xdsl.parser import Parser

from mpkir import LanguageModel
from mpkir.backends.interpreter import event_level, memory
from mpkir.backends.table import table_of
from mpkir.dialects import task
from mpkir.language_model import compile_language_model
from mpkir.pipeline import context


def run(program, states, position, steps, seed=0):
    return program.run(states, {}, position, steps=steps, seed=seed).outputs["logits"].reshape(-1)


def begin(case, module):
    states = memory.initial_states(module)
    known = len(states["tokens"]) - 1
    states["tokens"][:known] = case.tokens[:known].numpy()
    return states


@pytest.mark.parametrize("workers", [1, 16])
def test_any_number_of_workers(make_case, workers: int):
    """One worker does everything in order; with 16 a layer's families overlap."""
    case = make_case("qwen3")
    module = case.scheduled("cpu", workers=workers, capacity=80)
    program = event_level.EventProgram(module, case.weights)
    states = begin(case, module)
    states["tokens"][5:] = -1
    assert program.run(states, {}, 0, steps=68, seed=workers).steps_done == 68
    case.check_greedy(torch.from_numpy(states["tokens"][:69].copy()), prompt=5)


def test_the_schedule_of_an_h100(make_case):
    """132 SMs, weights through the ring: the very program that the CUDA backend prints."""
    case = make_case("smollm2")
    module = case.scheduled("h100", workers=None, capacity=80)
    assert any(isinstance(op, task.RingOp) for op in module.walk())
    placed = {
        worker
        for grid in module.walk()
        if isinstance(grid, task.GridOp) and grid.workers is not None
        for worker in grid.workers.get_values()
    }
    assert placed == set(range(132))
    program = event_level.EventProgram(module, case.weights)
    states = begin(case, module)
    exact = case.logits_of(case.exact_model, case.tokens[:65])
    rounded = case.logits_of(case.model, case.tokens[:65])
    done = 0
    for position in (0, 1, 63, 64):
        if position > done:
            run(program, states, done, position - done, seed=position)
        logits = run(program, states, position, 1, seed=99)
        error = np.abs(rounded[position] - exact[position])
        assert np.abs(logits - exact[position]).max() <= 1.5 * error.max()
        done = position + 1


def test_two_launches_equal_one(make_case):
    """Counters go on from launch to launch in the kernel; the interpreter begins each anew."""
    case = make_case("llama")
    lm = case.on_cpu()
    tokens = case.tokens[:40]
    lm.program.buffer("tokens")[:40] = tokens
    assert lm.program.run(0, 60) == 60
    whole = {name: lm.program.buffer(name).clone() for name in ("tokens", "k1", "v1", "logits")}
    lm.program.reset()
    lm.program.buffer("tokens")[:40] = tokens
    for position, steps in ((0, 1), (1, 38), (39, 2), (41, 19)):
        assert lm.program.run(position, steps) == steps
    for name, value in whole.items():
        assert lm.program.buffer(name).equal(value), name

    module = case.scheduled("cpu", workers=5, capacity=80)
    program = event_level.EventProgram(module, case.weights)
    once, twice = begin(case, module), begin(case, module)
    logits = run(program, once, 0, 20, seed=1)
    run(program, twice, 0, 7, seed=2)
    np.testing.assert_array_equal(run(program, twice, 7, 13, seed=3), logits)
    for name, value in once.items():
        np.testing.assert_array_equal(value, twice[name], err_msg=name)


def test_runs_repeat_bit_for_bit(make_case):
    """20 times the same, with more threads than processors so that they interleave differently."""
    case = make_case("qwen3")
    lm = case.on_cpu(workers=4)
    first = None
    for _ in range(20):
        lm.program.reset()
        lm.program.buffer("tokens")[:5] = case.tokens[:5]
        assert lm.program.run(0, 30) == 30
        found = [lm.program.buffer(name).clone() for name in ("tokens", "k1", "v1", "logits")]
        first = first or found
        assert all(a.equal(b) for a, b in zip(first, found, strict=True))


def test_a_sequence_ends_at_a_stop_token(make_case, tmp_path: Path):
    """The loop leaves by itself, in mid-launch, after the step that chose the token."""
    case = make_case("llama")
    free = case.on_cpu().generate(case.tokens[:5].tolist(), max_new_tokens=12)
    stop = free.tokens[6]
    before = free.tokens.index(stop)
    lm = LanguageModel.from_model(
        case.model, "cpu", capacity=64, workers=3, stop=[stop], output=tmp_path / "artifact"
    )
    done = lm.generate(case.tokens[:5].tolist(), max_new_tokens=12)
    assert done.tokens == free.tokens[: before + 1]


def test_eager_attention_is_the_same_program(make_case):
    """How transformers writes attention in PyTorch makes no difference to what is compiled."""
    eager, fused = make_case("mistral", "eager"), make_case("mistral")
    assert str(eager.scheduled("cpu", workers=3)) == str(fused.scheduled("cpu", workers=3))


def test_compiling_twice_gives_the_same_bytes(make_case, tmp_path: Path):
    """IR after every pass, source, table and manifest; the binary is the system compiler's."""
    case = make_case("qwen3")
    found: list[dict[str, bytes]] = []
    for name in ("first", "second"):
        place = tmp_path / name
        compile_language_model(
            case.model, "cpu", capacity=64, workers=3, output=place / "artifact", dump=place / "ir"
        )
        files = [path for path in sorted(place.rglob("*.*")) if path.suffix != ".so"]
        found.append({path.relative_to(place).as_posix(): path.read_bytes() for path in files})
    first, second = found
    assert list(first) == list(second)
    assert {Path(name).suffix for name in first} >= {".mlir", ".cpp", ".npy", ".mpkt", ".json"}
    for name, content in first.items():
        assert content == second[name], name


@pytest.mark.parametrize("target", ["cpu", "h100"])
def test_a_schedule_reads_back_from_text(make_case, target: str):
    """The table made of the text is the table made of the module."""
    module = make_case("llama").scheduled(target, workers=7, capacity=64)
    again = Parser(context(), str(module)).parse_module()
    assert str(again) == str(module)
    ours, theirs = table_of(module), table_of(again)
    for name in ("tasks", "workers", "families", "events"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
