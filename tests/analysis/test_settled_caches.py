"""Rows of a cache may be read before a step's tasks run where nobody else writes them."""

from __future__ import annotations

import pytest
import transformers
from xdsl.dialects.builtin import ModuleOp

from mpkir.analysis.settled_caches import caches_are_settled
from mpkir.dialects import task, tensor
from mpkir.frontend import decode_step, model_from_config
from mpkir.machine import machine_named
from mpkir.pipeline import lower


@pytest.fixture(scope="module")
def module() -> ModuleOp:
    config = transformers.LlamaConfig(
        hidden_size=128,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=160,
    )
    module = decode_step(model_from_config(config), 2048)
    lower(module, machine_named("h100", workers=4))
    return module


def attentions(module: ModuleOp) -> list[task.GridOp]:
    kinds = (tensor.AttentionSplitOp, tensor.AttentionJoinOp)
    grids = [op for op in module.walk() if isinstance(op, task.GridOp)]
    return [grid for grid in grids if any(isinstance(op, kinds) for op in grid.walk())]


def test_chunks_and_their_join_have_rows_of_their_own(module: ModuleOp) -> None:
    assert len(attentions(module)) == 4
    assert caches_are_settled(module)


def test_layers_that_share_a_cache_do_not(module: ModuleOp) -> None:
    changed = module.clone()
    one, other = (g for g in attentions(changed) if "AttentionSplitOp" in kinds_in(g))
    theirs, own = (next(v for v in grid.writes if v in grid.reads) for grid in (one, other))
    for number, value in enumerate(other.operands):
        if value is own:
            other.operands[number] = theirs
    assert not caches_are_settled(changed)


def test_another_operator_that_moves_rows(module: ModuleOp) -> None:
    changed = module.clone()
    attention = attentions(changed)[0]
    cache = next(v for v in attention.writes if v in attention.reads)
    mover = next(
        op
        for op in changed.walk()
        if isinstance(op, task.GridOp) and op not in attentions(changed) and op.writes
    )
    mover.operands[len(mover.operands) - 1] = cache
    assert not caches_are_settled(changed)


def kinds_in(grid: task.GridOp) -> set[str]:
    return {type(op).__name__ for op in grid.walk()}
