"""A model at its true widths on eight and more ranks: divided, compiled and proven."""

from __future__ import annotations

from typing import Any

import pytest
from xdsl.dialects.builtin import DenseArrayBase, ModuleOp, i64

from mpkir.backends.table import table_of
from mpkir.dialects import event, task
from mpkir.dialects.mesh import ranks_of
from mpkir.errors import MpkirError
from mpkir.frontend import decode_step, model_from_config
from mpkir.machine import machine_named
from mpkir.passes.verify_schedule import VerifySchedulePass
from mpkir.pipeline import context, lower
from mpkir.tools.bench.shapes import configurations

LAYERS = 2
KEY_HEADS = 8


def imported(batch: int) -> ModuleOp:
    """Of Qwen3-8B's shapes: 32 heads of queries, 8 of keys, an untied vocabulary of 151,936."""
    config: Any = configurations()["qwen3-8b"]
    config.num_hidden_layers = LAYERS
    config.layer_types = config.layer_types[:LAYERS]
    return decode_step(model_from_config(config), 1024, batch=batch)


@pytest.fixture(scope="module")
def step() -> ModuleOp:
    return imported(1)


def shards(module: ModuleOp) -> dict[str, tuple[int, int] | None]:
    """Dimension and number of the shards of every buffer and part that has a name of its own."""
    found: dict[str, tuple[int, int] | None] = {}
    for op in module.walk():
        if isinstance(op, task.BufferOp):
            found[op.sym.data] = op.shard and (op.shard.dim.data, op.shard.of.data)
            if op.parts is not None:
                for (name, _), shard in zip(op.parts.items, op.parts.shards, strict=True):
                    found[name] = shard and (shard.dim.data, shard.of.data)
    return found


@pytest.mark.parametrize("tp", [8, 16])
def test_heads_of_keys_are_held_by_as_many_ranks_as_share_them(step: ModuleOp, tp: int) -> None:
    """`lower` ends in the proof: no rank reads before the others have written, nor writes before
    they have read."""
    module = step.clone()
    lower(module, machine_named("h200"), tp=tp)
    assert ranks_of(module) == tp
    found = shards(module)
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        assert found[f"{name}.self_attn.q_proj.weight"] == (0, tp)
        assert found[f"{name}.self_attn.k_proj.weight"] == (0, KEY_HEADS)
        assert found[f"{name}.self_attn.v_proj.weight"] == (0, KEY_HEADS)
        assert found[f"{name}.self_attn.o_proj.weight"] == (1, tp)
        assert found[f"{name}.mlp.gate_proj.weight"] == (0, tp)
        assert found[f"{name}.mlp.down_proj.weight"] == (1, tp)
        assert found[f"k{layer}"] == found[f"v{layer}"] == (1, KEY_HEADS)
    assert found["lm_head.weight"] == (0, tp)
    exchanged = [
        op for op in module.walk() if isinstance(op, task.BufferOp) and op.exchange is not None
    ]
    assert all(task.memref_type_of(op.result).get_shape()[0] == tp for op in exchanged)
    # After the output and the down projection of each layer; candidates and where they stand.
    assert len(exchanged) == 2 * LAYERS + 2
    assert not any(task.scattered(op) for op in exchanged)
    assert len(table_of(module).families) > 4 * LAYERS


def test_many_tokens_are_summed_up_in_parts() -> None:
    """Sums of 16 tokens, 256 KB, on eight ranks: each adds up two tokens and sends them to all.
    Nobody waits for an event for that."""
    module = imported(16)
    lower(module, machine_named("h200"), tp=8)
    ops = list(module.walk())
    exchanged = [op for op in ops if isinstance(op, task.BufferOp) and op.exchange is not None]
    scattered = [op for op in exchanged if task.scattered(op)]
    assert len(scattered) == 2 * LAYERS
    assert {str(op.result.type) for op in scattered} == {"memref<8x2x1x4096xf32>"}
    assert all(op.flagged is not None for op in scattered)
    assert len(exchanged) == 4 * LAYERS + 2
    peers = [
        op.sym_name.data
        for op in ops
        if isinstance(op, event.TensorOp) and op.handoff.data is event.Handoff.PEER
    ]
    assert len(peers) == 2  # for the candidates, which have no tags, and the end of the step
    assert "end" in peers


def test_the_proof_refuses_eight_ranks_that_do_not_wait_for_each_other(step: ModuleOp) -> None:
    module = step.clone()
    lower(module, machine_named("h200"), tp=8)
    for op in module.walk():
        if isinstance(op, event.TensorOp) and op.handoff.data is event.Handoff.PEER:
            arrivals = op.local_arrivals(8)
            op.handoff = event.HandoffAttr(event.Handoff.COUNTER)
            op.arrivals = DenseArrayBase.from_list(i64, arrivals)
    module.verify()
    with pytest.raises(MpkirError, match=r"race within a step.* of another rank .*nothing orders"):
        VerifySchedulePass().apply(context(), module)
