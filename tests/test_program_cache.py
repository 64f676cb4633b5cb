"""A model compiled again is found without exporting it, and under nothing that differs from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama import modeling_llama

import mpkir.compiler
import mpkir.language_model
from mpkir import program_cache
from mpkir.frontend import model_from_config
from mpkir.language_model import compile_language_model
from mpkir.machine import machine_named
from mpkir.plugins import load_plugins
from mpkir.program_cache import Key
from mpkir.source_keys import exported_program_key, language_model_key

CONFIG: dict[str, Any] = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    vocab_size=64,
    max_position_embeddings=64,
    tie_word_embeddings=False,
)


def model_of(dtype: torch.dtype = torch.bfloat16, **changes: Any) -> Any:
    return model_from_config(LlamaConfig(**CONFIG | changes), dtype)


def key_of(model: Any, **changes: Any) -> str | None:
    given = dict(parts=("cpu", 64, (2,)), constants={}, extra_files={}) | changes
    key = language_model_key(model, given["parts"], given["constants"], given["extra_files"])
    return None if key is None else key.text


def test_the_same_model_has_the_same_key():
    assert key_of(model_of()) == key_of(model_of()) is not None


def set_scaling(model: Any) -> None:
    model.model.layers[0].self_attn.scaling = 0.5


def tie(model: Any) -> None:
    model.lm_head.weight = model.model.embed_tokens.weight


@pytest.mark.parametrize("change", [set_scaling, tie, torch.nn.Module.train])
def test_what_is_changed_on_a_model_changes_its_key(change: Callable[[Any], None]):
    model = model_of()
    before = key_of(model)
    change(model)
    assert key_of(model) not in (before, None)


@pytest.mark.parametrize(
    "change",
    [
        dict(rms_norm_eps=1e-3),
        dict(rope_theta=500.0),
        dict(vocab_size=65),
        dict(tie_word_embeddings=True),
        dict(hidden_act="gelu"),
        dict(num_hidden_layers=2),
        dict(attention_bias=True),
        dict(dtype=torch.float32),
    ],
    ids=str,
)
def test_its_configuration_and_type_change_its_key(change: dict[str, Any]):
    assert key_of(model_of(**change)) not in (key_of(model_of()), None)


@pytest.mark.parametrize(
    "change",
    [
        dict(parts=("cpu", 64, (3,))),
        dict(parts=("cpu", 128, (2,))),
        dict(parts=(machine_named("cpu", 2), 64, (2,))),
        dict(constants={"inv_freq": torch.ones(2)}),
        dict(extra_files={"tokenizer.json": b"{}"}),
    ],
    ids=str,
)
def test_all_else_of_a_compilation_changes_the_key(change: dict[str, Any]):
    model = model_of()
    assert key_of(model, **change) not in (key_of(model), None)


def test_values_of_constants_change_the_key():
    model = model_of()
    keys = {key_of(model, constants={"f": torch.tensor([x])}) for x in (1.0, 2.0)}
    assert len(keys) == 2


def version_of_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(program_cache, "version", lambda package: f"another {package}")


def version_of_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(program_cache.platform, "python_version", lambda: "4.0")


def own_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(program_cache, "source_digest", lambda: "another")


def the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(program_cache, "cpu_features", lambda: {"abacus"})


def the_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "another-compiler")


def a_plugin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(
        "from mpkir.universe import MpkirUniverse\nUNIVERSE = MpkirUniverse()\n"
    )
    load_plugins([tmp_path / "plugin.py"])


@pytest.mark.parametrize(
    "change", [version_of_torch, version_of_python, own_source, the_cpu, the_compiler, a_plugin]
)
def test_the_surroundings_change_the_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: Callable[..., None]
):
    model = model_of()
    before = key_of(model)
    change(monkeypatch, tmp_path)
    assert key_of(model) not in (before, None)


def own_subclass(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(torch.nn.Linear):
        pass

    model.model.layers[0].mlp.up_proj.__class__ = Mine


def own_forward(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model.lm_head.forward = lambda x: x


def a_hook(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model.lm_head.register_forward_hook(lambda module, args, result: result)


def a_patched_method(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", lambda self, x: x)


def a_patched_function(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", lambda q, k, c, s: (q, k))


@pytest.mark.parametrize(
    "change", [own_subclass, own_forward, a_hook, a_patched_method, a_patched_function]
)
def test_code_that_is_not_known_has_no_key(
    monkeypatch: pytest.MonkeyPatch, change: Callable[..., None]
):
    model = model_of()
    change(model, monkeypatch)
    assert key_of(model) is None


class Unwanted(Exception):
    """What should have come from the cache was done."""


def unwanted(*args: Any, **kwargs: Any) -> None:
    raise Unwanted


def test_the_second_compilation_exports_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("MPKIR_CACHE", str(tmp_path))
    first = compile_language_model(model_of(), workers=1, capacity=16)
    other = compile_language_model(model_of(), workers=1, capacity=32)
    assert other.path != first.path
    monkeypatch.setattr(mpkir.language_model, "export_step", unwanted)
    assert compile_language_model(model_of(), workers=1, capacity=16).path == first.path
    # What is damaged is not taken.
    first.binary_path.write_bytes(b"")
    with pytest.raises(Unwanted):
        compile_language_model(model_of(), workers=1, capacity=16)


class Scale(torch.nn.Module):
    def __init__(self, factor: float = 2.0, start: float = 0.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4, 8))
        self.register_buffer("sum", torch.full((4,), start))
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sum.add_(1)
        return (x @ self.weight.T) * self.factor + self.sum


def program_key(module: torch.nn.Module, rows: int = 2, *parts: Any) -> str | None:
    program = torch.export.export(module, (torch.zeros(rows, 8),))
    key = exported_program_key(program, parts)
    return None if key is None else key.text


def test_the_key_of_an_exported_program():
    assert program_key(Scale()) == program_key(Scale()) is not None
    others = [
        program_key(Scale(3.0)),
        program_key(Scale(start=1.0)),
        program_key(Scale(), 3),
        program_key(Scale(), 2, "another machine"),
        program_key(Scale().double().float()),
        program_key(torch.nn.Linear(8, 4)),
    ]
    same = program_key(Scale())
    assert others[4] == same
    assert len({same, *others}) == 6


def test_operators_of_unknown_packages_have_no_key():
    @torch.library.custom_op("mpkir_test::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @twice.register_fake
    def _(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x)

    class Uses(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return twice(x)

    assert program_key(Uses()) is None


def test_an_exported_program_is_found_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("MPKIR_CACHE", str(tmp_path))
    program = torch.export.export(Scale(), (torch.ones(2, 8),))
    first = mpkir.compiler.compile(program, workers=1)
    monkeypatch.setattr("mpkir.frontend.torch_export.import_program", unwanted)
    again = mpkir.compiler.compile(program, workers=1)
    assert again.artifact.path == first.artifact.path
    assert torch.equal(again(torch.ones(2, 8)), torch.full((2, 4), 17.0))


def test_keys_tell_parts_apart():
    assert Key("ab", "c").text != Key("a", "bc").text
    assert Key(1).text != Key("1").text
