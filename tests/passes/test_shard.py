"""Programs divided among ranks compute what they did before, on all ranks together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from mpkir.backends.interpreter.task_level import TaskProgram
from mpkir.backends.interpreter.tensor_level import TensorProgram, initial_states
from mpkir.dialects import tensor
from mpkir.errors import MpkirError
from mpkir.frontend import decode_step, weights_of
from mpkir.machine import machine_named
from mpkir.passes.fuse_operators import FuseOperatorsPass
from mpkir.passes.join_linears import JoinLinearsPass
from mpkir.passes.partition_tiles import PartitionTilesPass
from mpkir.passes.raise_operators import RaiseOperatorsPass
from mpkir.passes.shard import ShardPass
from mpkir.passes.sharding.costs import Costs
from mpkir.passes.sharding.forms import Exchange, Kind
from mpkir.passes.split_reductions import SplitReductionsPass
from mpkir.passes.widen_activations import WidenActivationsPass

PASSES = (
    FuseOperatorsPass(),
    WidenActivationsPass(),
    JoinLinearsPass(),
    SplitReductionsPass(attention_chunk=16, argmax_chunks=8),
)
CHEAP = 0.0005
"""Microseconds of an exchange with which even the weights of these models are worth dividing."""

SHAPE: dict[str, Any] = dict(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=160,
    max_position_embeddings=128,
)


Decoder = Callable[..., Any]


@pytest.fixture(scope="module")
def decoder(random_model: Decoder) -> Decoder:
    """An fp32 model of an architecture with random weights."""

    def make(architecture: str, **changes: Any) -> Any:
        return random_model(getattr(transformers, architecture)(**(SHAPE | changes)), torch.float32)

    return make


def raised(model: Any) -> ModuleOp:
    module = decode_step(model, 64)
    RaiseOperatorsPass().apply(Context(), module)
    return module


def divided(
    module: ModuleOp, tp: int, exchange_us: float | None = CHEAP, shots: int = 0
) -> ModuleOp:
    module = module.clone()
    each = ShardPass(tp=tp, machine="h200", exchange_us=exchange_us, shots=shots)
    each.apply(Context(), module)
    module.verify()
    return module


def lowered(module: ModuleOp) -> ModuleOp:
    """After the other passes of the tensor level."""
    module = module.clone()
    for each in PASSES:
        each.apply(Context(), module)
    module.verify()
    return module


def arrays_of(model: Any) -> dict[str, np.ndarray]:
    return {
        name: value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        if value.dtype == torch.bfloat16
        else value.numpy()
        for name, value in weights_of(model).items()
    }


def check_same(model: Any, whole: ModuleOp, parts: ModuleOp, tolerance: float = 2e-5) -> None:
    """That both generate the same from a prompt, with the same logits, caches and tokens."""
    weights = arrays_of(model)
    programs = (TensorProgram(whole, weights), TensorProgram(parts, weights))
    states = [initial_states(whole), initial_states(whole)]
    for held in states:
        held["tokens"][:3] = 5, 99, 17
    for position in range(6):
        wanted, found = (
            program.step(held, {}, position) for program, held in zip(programs, states, strict=True)
        )
        scale = np.abs(wanted["logits"]).max()
        assert np.abs(found["logits"] - wanted["logits"]).max() <= tolerance * scale
    assert (states[0]["tokens"] == states[1]["tokens"]).all()
    assert (states[0]["tokens"][:7] >= 0).all()
    for name, value in states[0].items():
        if name != "tokens":
            wanted = value.astype(np.float32)
            apart = np.abs(states[1][name].astype(np.float32) - wanted).max()
            assert apart <= tolerance * np.abs(wanted).max(), name


def check_same_tasks(model: Any, whole: ModuleOp, operators: ModuleOp) -> None:
    """That the tasks of a program give what its operators give; `whole` is it before any pass."""
    tasks = operators.clone()
    PartitionTilesPass(workers=4).apply(Context(), tasks)
    weights = arrays_of(model)
    programs = (TensorProgram(operators, weights), TaskProgram(tasks, weights))
    states = [initial_states(whole), initial_states(whole)]
    for position in range(4):
        for held in states:
            held["tokens"][position] = 11 * position
        wanted, found = (
            program.step(held, {}, position)["logits"]
            for program, held in zip(programs, states, strict=True)
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def divided_alike(model: Any, tp: int) -> ModuleOp:
    """A model for several ranks, which gives what it gives undivided: before and after it is
    lowered, and as tasks."""
    whole = raised(model)
    parts = divided(whole, tp)
    check_same(model, whole, parts)
    operators = lowered(parts)
    check_same(model, lowered(whole), operators)
    check_same_tasks(model, whole, operators)
    return parts


def shards_of(module: ModuleOp) -> dict[str, str]:
    """Which shard each weight, state and output is of; the shards of a weight with several."""
    result: dict[str, set[str]] = {}
    for op in module.walk():
        if isinstance(op, tensor.WeightOp | tensor.StateOp | tensor.OutputOp):
            shard = op.shard
            text = "-" if shard is None else str(shard).partition("dim ")[2].rstrip(">")
            result.setdefault(op.sym.data, set()).add(text)
    return {name: ", ".join(sorted(found)) for name, found in result.items()}


def count(module: ModuleOp, kind: type) -> int:
    return sum(isinstance(op, kind) for op in module.walk())


@pytest.fixture(scope="module")
def models(decoder: Decoder) -> dict[str, tuple[Any, ModuleOp]]:
    made = {
        "llama": decoder("LlamaConfig"),
        "llama-tied": decoder("LlamaConfig", tie_word_embeddings=True),
        "qwen3": decoder("Qwen3Config"),
        "qwen3-tied": decoder("Qwen3Config", tie_word_embeddings=True),
        "qwen2": decoder("Qwen2Config"),
    }
    return {name: (model, raised(model)) for name, model in made.items()}


@pytest.mark.parametrize("tp", [2, 4, 8])
@pytest.mark.parametrize("name", ["llama", "llama-tied", "qwen3", "qwen3-tied", "qwen2"])
def test_decoders_on_all_ranks(models: Any, name: str, tp: int) -> None:
    model, whole = models[name]
    parts = divided(whole, tp)
    check_same(model, whole, parts)
    check_same(model, lowered(whole), lowered(parts))


@pytest.mark.parametrize(
    ("ranks", "rows", "columns", "in_parts"),
    [
        (8, 1, 4096, False),
        (8, 1, 8192, False),
        (8, 16, 4096, True),
        (8, 16, 8192, True),
        (4, 16, 4096, False),
        (4, 64, 4096, True),
        (2, 64, 8192, False),
    ],
)
def test_large_sums_are_made_in_parts(ranks: int, rows: int, columns: int, in_parts: bool) -> None:
    """On an H200, of a product of true width; of two ranks each sends as much either way."""
    costs = Costs(machine_named("h200"), ranks)
    size = 4 * rows * columns
    one = costs.of_exchange(Exchange(Kind.SUM, ranks, size))
    two = costs.of_exchange(Exchange(Kind.SUM_IN_PARTS, ranks, size // ranks))
    assert (two < one) == in_parts


@pytest.mark.parametrize("tp", [2, 4])
def test_sums_in_parts(models: Any, tp: int) -> None:
    """Each rank adds up a part of what the output and down projections give, and sends it to all;
    the residual comes after."""
    model, whole = models["qwen2"]
    parts = divided(whole, tp, shots=2)
    assert count(parts, tensor.AllReduceOp) == 0
    assert count(parts, tensor.ReduceScatterOp) == 2 * SHAPE["num_hidden_layers"]
    check_same(model, whole, parts)
    check_same(model, lowered(whole), lowered(parts))


def test_keys_are_shared_by_neighbours(models: Any) -> None:
    """Two heads of keys for four and eight ranks; a tied weight has a part beside the whole."""
    _, whole = models["qwen3-tied"]
    for tp in (4, 8):
        shards = shards_of(divided(whole, tp))
        attention = "model.layers.0.self_attn"
        assert shards[f"{attention}.q_proj.weight"] == f"0 of {tp}"
        assert shards[f"{attention}.o_proj.weight"] == f"1 of {tp}"
        assert shards[f"{attention}.k_proj.weight"] == shards[f"{attention}.v_proj.weight"]
        assert shards[f"{attention}.k_proj.weight"] == "0 of 2"
        assert shards["k0"] == shards["v1"] == "1 of 2"
        assert shards[f"{attention}.q_norm.weight"] == "-"
        assert shards["lm_head.weight"] == f"-, 0 of {tp}"
        assert shards["logits"] == f"2 of {tp}"


@pytest.mark.parametrize("tp", [2, 3, 4])
def test_sizes_that_do_not_divide(decoder: Decoder, tp: int) -> None:
    """Nine heads over three, an odd vocabulary: what divides is divided, the rest is whole."""
    model = decoder(
        "LlamaConfig",
        hidden_size=72,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=8,
        vocab_size=161,
    )
    whole = raised(model)
    parts = divided(whole, tp)
    check_same(model, whole, parts)
    check_same(model, lowered(whole), lowered(parts))
    shards = shards_of(parts)
    assert shards["logits"] == shards["lm_head.weight"] == "-"
    assert shards["model.layers.1.mlp.down_proj.weight"] == f"1 of {tp}"
    assert shards["k0"] == ("1 of 3" if tp == 3 else "-")
    remarks = str(parts.attributes["mpk.shard_remarks"])
    assert "lm_head: 161 features out of 72 are whole on every rank; 7 would share them" in remarks
    heads = "9 heads of queries and 3 of keys are whole on every rank; 3 or 9 would share them"
    assert (heads in remarks) == (tp != 3)


def test_heads_that_only_some_of_the_ranks_can_share(decoder: Decoder) -> None:
    """Six heads over two for four ranks: two of them have the same, whose sums count once."""
    model = decoder("LlamaConfig", num_attention_heads=6, hidden_size=96)
    whole = raised(model)
    parts = divided(whole, 4)
    check_same(model, whole, parts)
    check_same(model, lowered(whole), lowered(parts))
    shards = shards_of(parts)
    assert shards["model.layers.0.self_attn.q_proj.weight"] == "0 of 2"
    assert shards["model.layers.0.mlp.up_proj.weight"] == "0 of 4"


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("PhiConfig", {}),
        ("Phi3Config", {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}),
        ("Gemma2Config", {}),
        ("Olmo2Config", {"eos_token_id": None}),
        ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    ],
)
def test_other_architectures(decoder: Decoder, architecture: str, changes: dict[str, Any]) -> None:
    model = decoder(architecture, **changes)
    whole = raised(model)
    parts = divided(whole, 4)
    check_same(model, whole, parts)
    check_same(model, lowered(whole), lowered(parts))
    assert count(parts, tensor.AllReduceOp) + count(parts, tensor.AllGatherOp) > 2


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_queries_keys_and_values_in_one_weight(decoder: Decoder, tp: int) -> None:
    """Each rank has its heads' rows of each, and its rows of gates and of what they gate."""
    model = decoder("Phi3Config", pad_token_id=0, bos_token_id=None, eos_token_id=None)
    parts = divided_alike(model, tp)
    shards = shards_of(parts)
    layer = "model.layers.1"
    heads, keys = SHAPE["num_attention_heads"] * 16, SHAPE["num_key_value_heads"] * 16
    assert shards[f"{layer}.self_attn.qkv_proj.weight"] == (
        f"0 pieces [{heads} of {tp}, {keys} of 2, {keys} of 2]"
    )
    assert shards[f"{layer}.self_attn.o_proj.weight"] == f"1 of {tp}"
    assert shards[f"{layer}.mlp.gate_up_proj.weight"] == f"0 pieces [96 of {tp}, 96 of {tp}]"
    assert shards[f"{layer}.mlp.down_proj.weight"] == f"1 of {tp}"
    assert count(parts, tensor.AllReduceOp) == 2 * SHAPE["num_hidden_layers"]
    assert count(parts, tensor.AllGatherOp) <= 1  # of logits, before candidates are


@pytest.mark.parametrize("tp", [2, 4])
@pytest.mark.parametrize(
    ("architecture", "changes", "size"),
    [
        ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}, 96),
        (
            "Qwen3MoeConfig",
            {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32},
            32,
        ),
    ],
)
def test_experts(
    decoder: Decoder, architecture: str, changes: dict[str, Any], size: int, tp: int
) -> None:
    """Each rank has a part of every expert, and one sum follows."""
    model = decoder(architecture, **changes)
    parts = divided_alike(model, tp)
    shards = shards_of(parts)
    experts = "model.layers.1.mlp.experts"
    assert shards[f"{experts}.gate_up_proj"] == f"1 pieces [{size} of {tp}, {size} of {tp}]"
    assert shards[f"{experts}.down_proj"] == f"2 of {tp}"
    assert count(parts, tensor.AllReduceOp) == 2 * SHAPE["num_hidden_layers"]
    assert count(parts, tensor.AllGatherOp) <= 1


@pytest.mark.parametrize(("tokens", "batch"), [(2, 1), (1, 3)])
def test_several_tokens_and_several_sequences(models: Any, tokens: int, batch: int) -> None:
    model, _ = models["llama"]
    whole = decode_step(model, 64, tokens, batch=batch)
    RaiseOperatorsPass().apply(Context(), whole)
    parts = lowered(divided(whole, 4))
    weights = arrays_of(model)
    programs = (TensorProgram(lowered(whole), weights), TensorProgram(parts, weights))
    states = [initial_states(whole), initial_states(whole)]
    for held in states:
        held["tokens"][..., :4] = np.arange(4) * 7 + 3
    for position in range(0, 6, tokens):
        wanted, found = (
            program.step(held, {}, position) for program, held in zip(programs, states, strict=True)
        )
        np.testing.assert_allclose(found["logits"], wanted["logits"], rtol=1e-3, atol=1e-4)
    assert (states[0]["tokens"] == states[1]["tokens"]).all()


def test_bf16_is_as_good_as_before(decoder: Decoder) -> None:
    """Partial sums are added in fp32, so that dividing costs no precision."""
    model = decoder("Qwen3Config")
    exact = TensorProgram(lowered(raised(model)), arrays_of(model))
    rounded = model.to(torch.bfloat16)
    whole = raised(rounded)
    weights = arrays_of(rounded)
    errors: list[list[float]] = []
    programs = (
        TensorProgram(lowered(whole), weights),
        TensorProgram(lowered(divided(whole, 4)), weights),
    )
    truth = initial_states(raised(decoder("Qwen3Config")))
    truth["tokens"][:6] = 3, 1, 4, 1, 5, 9
    logits = [exact.step(truth, {}, position)["logits"] for position in range(6)]
    for program in programs:
        states = initial_states(whole)
        states["tokens"][:6] = 3, 1, 4, 1, 5, 9
        found = [program.step(states, {}, position)["logits"] for position in range(6)]
        errors.append([np.abs(a - b).mean() for a, b in zip(found, logits, strict=True)])
    assert np.mean(errors[1]) <= 1.2 * np.mean(errors[0])


@pytest.mark.parametrize(
    ("logits", "chosen"),
    [
        ([0, 5, 1, 0, 5, 2, 0, 5], 1),
        ([0, 1, 1, 0, 0, 2, 5, 5], 6),
        ([-3, -3, -3, -3, -3, -3, -3, -3], 0),
        ([0, 9, 1, 0, math.nan, 2, 0, math.nan], 4),
        ([-math.inf, -math.inf, 1, -math.inf, -math.inf, -math.inf, -math.inf, 1], 2),
    ],
)
@pytest.mark.parametrize("tp", [2, 4, 8])
def test_the_lowest_of_equals_on_any_rank(run: Any, tp: int, logits: Any, chosen: int) -> None:
    text = """func.func @step() {
      %x = mpk_tensor.input "x" : tensor<1x1xf32>
      %w = mpk_tensor.weight "w" : tensor<8x1xf32>
      %l = mpk_tensor.linear %x, [%w] : tensor<1x1xf32>, [tensor<8x1xf32>] to tensor<1x8xf32>
      %a = mpk_tensor.argmax %l : tensor<1x8xf32> to tensor<1xi64>
      mpk_tensor.output "l", %l : tensor<1x8xf32>
      mpk_tensor.output "a", %a : tensor<1xi64>
      func.return
    }"""
    shard = f"mpk-shard{{tp={tp} exchange_us=0.0000001}}"
    for passes in (shard, f"{shard},mpk-split-reductions{{argmax_chunks=8}}"):
        module = run(text, passes)
        assert shards_of(module)["l"] == f"1 of {tp}"
        weights = {"w": np.array(logits, np.float32)[:, None]}
        found = TensorProgram(module, weights).step({}, {"x": np.ones((1, 1), np.float32)}, 0)
        np.testing.assert_array_equal(found["l"], [logits])
        assert found["a"].tolist() == [chosen]


def test_states_are_not_in_pieces(run: Any) -> None:
    """What is sliced is a state, which the host puts together from plain parts."""
    text = """func.func @step() {
      %s = mpk_tensor.state "s" : tensor<1x4096xf32>
      %w = mpk_tensor.weight "w" : tensor<2048x2048xf32>
      %a = mpk_tensor.slice %s dim 1 start 0 : tensor<1x4096xf32> to tensor<1x2048xf32>
      %b = mpk_tensor.slice %s dim 1 start 2048 : tensor<1x4096xf32> to tensor<1x2048xf32>
      %c = mpk_tensor.elementwise %a, %b {
      ^bb0(%0 : f32, %1 : f32):
        %2 = arith.mulf %0, %1 : f32
        mpk_tensor.yield %2 : f32
      } : (tensor<1x2048xf32>, tensor<1x2048xf32>) -> tensor<1x2048xf32>
      %y = mpk_tensor.linear %c, [%w]
        : tensor<1x2048xf32>, [tensor<2048x2048xf32>] to tensor<1x2048xf32>
      mpk_tensor.output "y", %y : tensor<1x2048xf32>
      func.return
    }"""
    module = run(text, "mpk-shard{tp=4 exchange_us=0.0000001}")
    assert shards_of(module) == {"s": "-", "w": "0 of 4", "y": "1 of 4"}


def test_the_same_division_each_time(models: Any) -> None:
    _, whole = models["llama"]
    assert str(divided(whole, 4)) == str(divided(whole, 4))


def test_ranks_that_differ_are_found(run: Any) -> None:
    """The interpreter does not hide a rank that has other bits than it should."""
    text = """builtin.module attributes {mpk.mesh = {tp = 2}} {
      func.func @step() {
        %w = mpk_tensor.weight "w" shard <dim 0 of 2> : tensor<4xf32>
        mpk_tensor.output "w", %w : tensor<4xf32>
        func.return
      }
    }"""
    program = TensorProgram(run(text, "mpk-fuse-operators"), {"w": np.arange(8, dtype=np.float32)})
    with pytest.raises(MpkirError, match="another 'w'"):
        program.step({}, {}, 0)


def test_tasks_of_a_tied_and_of_a_partly_divided_model(decoder: Decoder, models: Any) -> None:
    """One weight whole and as a shard, and parts that two ranks have, as buffers and tasks."""
    six = decoder("LlamaConfig", num_attention_heads=6, hidden_size=96)
    for model, whole in (models["qwen3-tied"], (six, raised(six))):
        check_same_tasks(model, whole, lowered(divided(whole, 4)))
