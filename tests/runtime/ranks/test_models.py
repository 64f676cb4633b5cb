"""Language models on several ranks give what they give on one."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers

from mpkir import LanguageModel, checkpoints
from mpkir.checkpoints import load_checkpoint
from mpkir.frontend import weights_of
from mpkir.language_model import compile_language_model
from mpkir.runtime.generation import LoadedLanguageModel
from mpkir.runtime.manifest import Piece, Shard
from mpkir.tools import mpk
from mpkir.variant import Variant

PROMPT = [5, 7, 11, 200]
NEW = 20
_SHAPE: dict[str, Any] = dict(
    vocab_size=256,
    hidden_size=128,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=8,
    head_dim=16,
    max_position_embeddings=64,
    initializer_range=0.2,
)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("Qwen3Config", dict(num_key_value_heads=4, tie_word_embeddings=True)),
    "llama": ("LlamaConfig", dict(num_key_value_heads=2)),
    "phi3": ("Phi3Config", dict(num_key_value_heads=2, pad_token_id=0, bos_token_id=None)),
    "mixtral": (
        "MixtralConfig",
        dict(num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2),
    ),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        dict(
            num_key_value_heads=4, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=256
        ),
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPKIR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's directory, with a tokenizer of words "w0", "w1", .."""
    name, changes = MODELS[request.param]
    config = getattr(transformers, name)(**(_SHAPE | changes), eos_token_id=None)
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    path = tmp_path_factory.mktemp("model") / request.param
    transformers.logging.disable_progress_bar()
    model.save_pretrained(path)
    words = tokenizers.models.WordLevel({f"w{k}": k for k in range(256)}, "w0")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(path)
    return path


def _answer(path: Path, tp: int) -> tuple[tuple[int, ...], torch.Tensor, LanguageModel]:
    lm = LanguageModel.from_pretrained(path, "cpu", capacity=48, workers=1, tp=tp)
    answer = lm.generate(PROMPT, max_new_tokens=NEW)
    return answer.tokens, lm.logits(PROMPT), lm


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_ranks_give_what_one_gives(run_ranks: Any, checkpoint: Path, tp: int):
    tokens, logits, _ = _answer(checkpoint, 1)
    assert len(set(tokens)) > 2

    def rank(number: int) -> Any:
        found, rows, lm = _answer(checkpoint, tp)
        held = {buffer.name: buffer for buffer in lm.program.manifest.buffers}
        key = held["model.layers.0.self_attn.k_proj.weight"].shard
        return found, rows, key, sum(memory.nbytes for memory in lm.program.weights.values())

    answers = run_ranks(rank, tp)
    for found, rows, key, held in answers:
        assert found == tokens
        torch.testing.assert_close(rows, logits, rtol=2e-3, atol=2e-3)
        assert torch.equal(rows, answers[0][1])  # the same bits on every rank
        heads = MODELS[checkpoint.name][1]["num_key_value_heads"]
        assert key == Shard(0, min(tp, heads))
        whole = (checkpoint / "model.safetensors").stat().st_size
        assert held < whole * 0.75


@pytest.mark.parametrize(
    ("checkpoint", "tp", "shards"),
    [
        (
            "phi3",
            4,
            {
                "self_attn.qkv_proj.weight": Shard(
                    0, 4, (Piece(128, 4), Piece(32, 2), Piece(32, 2))
                ),
                "mlp.gate_up_proj.weight": Shard(0, 4, (Piece(128, 4), Piece(128, 4))),
            },
        ),
        (
            "mixtral",
            2,
            {
                "mlp.experts.gate_up_proj": Shard(1, 2, (Piece(128, 2), Piece(128, 2))),
                "mlp.experts.down_proj": Shard(2, 2),
            },
        ),
        (
            "qwen3_moe",
            4,
            {
                "mlp.experts.gate_up_proj": Shard(1, 4, (Piece(256, 4), Piece(256, 4))),
                "mlp.experts.down_proj": Shard(2, 4),
            },
        ),
    ],
    indirect=["checkpoint"],
)
def test_weights_in_pieces(run_ranks: Any, checkpoint: Path, tp: int, shards: dict[str, Shard]):
    """Queries, keys and values in one weight, and experts; of which each rank reads its parts."""
    tokens, logits, _ = _answer(checkpoint, 1)
    assert len(set(tokens)) > 2

    def rank(number: int) -> Any:
        opened: list[bool] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoints, "load_model", opened.append)  # nobody loads all
            found, rows, lm = _answer(checkpoint, tp)
        held = {buffer.name: buffer.shard for buffer in lm.program.manifest.buffers}
        return found, rows, held, opened

    answers = run_ranks(rank, tp)
    for found, rows, held, opened in answers:
        assert found == tokens
        torch.testing.assert_close(rows, logits, rtol=2e-3, atol=2e-3)
        assert torch.equal(rows, answers[0][1])
        assert {name: held[f"model.layers.1.{name}"] for name in shards} == shards
        assert opened == []


@pytest.mark.parametrize("checkpoint", ["llama"], indirect=True)
@pytest.mark.parametrize(("tp", "batch"), [(2, 1), (4, 4)])
def test_sums_in_parts(run_ranks: Any, checkpoint: Path, tmp_path: Path, tp: int, batch: int):
    """Parts along columns of one token, along rows of four; in f32, as sums are rounded before the
    residual is added."""
    prompts = [[*PROMPT[number:], number] for number in range(batch)]
    options: dict[str, Any] = dict(capacity=48, batch=batch, workers=1)
    model = load_checkpoint(checkpoint).model.float()
    one = LanguageModel.from_model(model, "cpu", **options)
    wanted = [answer.tokens for answer in one.generate(prompts, max_new_tokens=NEW)]
    compile_language_model(
        model,
        "cpu",
        output=tmp_path / "program",
        weights=weights_of(model),
        tp=tp,
        variant=Variant(options=(("mpk-shard", "shots", 2), ("mpk-shard", "exchange_us", 0.0005))),
        **options,
    )
    text = (tmp_path / "program" / "kernel.cpp").read_text(encoding="utf-8")
    assert "mpk::scatter_all(" in text

    def rank(number: int) -> Any:
        lm = LoadedLanguageModel.load(tmp_path / "program")
        return [answer.tokens for answer in lm.generate(prompts, max_new_tokens=NEW)]

    assert run_ranks(rank, tp) == [wanted] * tp


@pytest.mark.parametrize("checkpoint", ["llama"], indirect=True)
def test_mpk_generate_shows_what_rank_0_says(run_ranks: Any, checkpoint: Path):
    """As torchrun would start it; or mpk itself, which test_start.py tries."""
    tokens, _, _ = _answer(checkpoint, 1)
    prompt = " ".join(f"w{token}" for token in PROMPT)
    options = ["--tp=2", "--workers=1", "--capacity=48", f"--max-new-tokens={NEW}"]

    def rank(number: int) -> str:
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said), suppress(SystemExit):
            mpk.main(["generate", *options, str(checkpoint), prompt])
        return said.getvalue()

    first, second = run_ranks(rank, 2)
    assert " ".join(f"w{token}" for token in tokens) in first
    assert "load the weights" in first
    assert second == ""
