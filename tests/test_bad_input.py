"""What a user gets wrong ends in one message that names the thing and the way out: no traceback,
exit code 1, nothing half-written."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import mpkir
from mpkir import LanguageModel, MpkirError
from mpkir.compiler import compile_module
from mpkir.frontend import import_program
from mpkir.machine import machine_named
from mpkir.tools import mpk, mpk_opt

CONFIG = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    vocab_size=64,
    max_position_embeddings=128,
)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sort(x).values


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPKIR_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sources and artifacts that are all right."""
    folder = tmp_path_factory.mktemp("made")
    exported = torch.export.export(Twice(), (torch.randn(2, 8),))
    torch.export.save(exported, folder / "twice.pt2")
    mpkir.compile(exported, output=folder / "twice")
    compile_module(import_program(exported), machine_named("h100"), output=folder / "on-h100")
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG)).bfloat16()
    LanguageModel.from_model(model, capacity=16, output=folder / "llama")
    transformers.LlamaConfig(**CONFIG).save_pretrained(folder / "config")
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder to work in."""
    folder = tmp_path / "here"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def fails(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The message that a failing command ends with; the command must leave no file behind."""

    def run(*arguments: str, tool: Callable[[list[str]], object] = mpk.main) -> str:
        before = sorted(here.rglob("*"))
        with pytest.raises(SystemExit) as stopped:
            tool([*arguments])
        message = str(stopped.value.code)
        assert "error: " in message
        assert "\n\n" not in message, "more than one paragraph"
        assert "Traceback" not in message + capsys.readouterr().err
        assert sorted(here.rglob("*")) == before, "something half-written was left"
        return message

    return run


COMPILATIONS = {
    "a missing file": (["nothing.gguf"], "no such file: nothing.gguf"),
    "a missing program": (["nothing.pt2"], "nothing.pt2: there is no such file"),
    "missing IR": (["nothing.mlir"], "nothing.mlir: the file cannot be read"),
    "a missing directory": (["./nothing"], "no such file or directory: nothing"),
    "an unknown target": (["twice.pt2", "-t", "h9000"], "choose one of a100, cpu, h100"),
    "no worker": (["twice.pt2", "--workers", "0"], "at least one worker"),
    "no capacity": (["config/config.json", "--capacity", "0"], "made for 1 to 128"),
    "too much capacity": (["config/config.json", "--capacity", "129"], "choose one in that range"),
    "weights twice": (["twice.pt2", "--weights", "w.safetensors"], "leave out --weights"),
    "missing weights": (
        ["config/config.json", "--weights", "w.safetensors"],
        "w.safetensors: there is no such file",
    ),
}


@pytest.mark.parametrize("name", COMPILATIONS)
def test_what_cannot_be_compiled(name: str, fails: Callable[..., str]):
    arguments, expected = COMPILATIONS[name]
    assert expected in fails("compile", *arguments, "-o", "out")


FILES = {
    "cut.gguf": (b"GGUF\3\0\0\0\1\0\0\0", "the file is truncated; download it again"),
    "text.gguf": (b"hello, world", "is no GGUF file"),
    "zip.pt2": (b"hello", "this is not an exported program"),
    "syntax.mlir": (b"func.func @f(", "this is not valid IR"),
    "binary.mlir": (b"\xff\xfe\0", "this is no text file"),
    "unknown.mlir": (b'"mpk_tensor.nothing"() : () -> ()', "this is not valid IR"),
    "wrong.mlir": (
        b'%0 = mpk_tensor.input "x" : tensor<2xf32>\nmpk_tensor.store_state "s", %0 : f32',
        "this is not valid IR",
    ),
    "no.json": (b"{", "this is not the configuration of a known model"),
    "odd.json": (json.dumps({"model_type": "abacus"}).encode(), "configuration of a known model"),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_files(name: str, here: Path, fails: Callable[..., str]):
    content, expected = FILES[name]
    (here / name).write_bytes(content)
    message = fails("compile", name, "-o", "out")
    assert expected in message
    assert name in message


def test_an_operator_without_lowering(here: Path, fails: Callable[..., str]):
    program = torch.export.export(Sorted(), (torch.randn(4),))
    torch.export.save(program, here / "sorted.pt2")
    message = fails("compile", "sorted.pt2", "-o", "out")
    assert "aten.sort.default" in message
    assert "register_lowering" in message


def test_a_dynamic_shape_without_a_bound():
    rows = torch.export.Dim("rows")
    program = torch.export.export(Twice(), (torch.randn(2, 8),), dynamic_shapes={"x": {0: rows}})
    with pytest.raises(MpkirError, match=r"dynamic|static") as caught:
        mpkir.compile(program)
    assert "'x'" in str(caught.value)


def test_a_module_that_torch_cannot_export():
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(MpkirError, match=r"torch.export refuses Branch"):
        mpkir.compile(Branch(), (torch.randn(3),))


def test_no_example_arguments():
    with pytest.raises(MpkirError, match="none were given"):
        mpkir.compile(Twice())


def test_something_else_is_in_the_way(here: Path, fails: Callable[..., str]):
    (here / "taken").mkdir()
    (here / "taken" / "diary.txt").write_text("dear diary")
    assert "is not overwritten" in fails("compile", "twice.pt2", "-o", "taken")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("CXX", "nonesuch++", "$CXX names 'nonesuch++'"), ("PATH", "", "install g++ or clang++")],
)
def test_no_compiler(
    name: str, value: str, expected: str, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv(name, value)
    assert expected in fails("compile", "twice.pt2", "-o", "out")


def test_no_cuda_compiler(fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_HOME", "/nonexistent")
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    message = fails("compile", "twice.pt2", "-t", "h100", "-o", "out")
    assert "there is no CUDA compiler on this machine; install the CUDA toolkit" in message


def test_a_program_for_a_gpu_where_there_is_none(
    fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch sees no NVIDIA GPU here" in fails("run", "on-h100")


def test_a_gpu_with_less_shared_memory(fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    gpu = SimpleNamespace(
        name="NVIDIA Tiny",
        major=9,
        minor=0,
        multi_processor_count=132,
        shared_memory_per_block_optin=101_376,
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    message = fails("run", "on-h100")
    assert "bytes of shared memory on each SM, NVIDIA Tiny gives 101376" in message
    assert "compile the model again for this GPU" in message


@pytest.mark.parametrize("command", ["run", "inspect", "disasm"])
def test_what_is_no_artifact(command: str, fails: Callable[..., str]):
    assert "there is no such directory" in fails(command, "nothing")
    assert "no manifest.json here; give the directory" in fails(command, "config")
    assert "there is no such directory" in fails(command, "twice.pt2")


def test_arrays_that_are_no_input(here: Path, fails: Callable[..., str]):
    np.save(here / "wide.npy", np.zeros((2, 9), np.float32))
    assert "add --input x=FILE.npy" in fails("run", "twice")
    assert "its inputs are x" in fails("run", "twice", "-i", "y=wide.npy")
    assert "write --input NAME=FILE.npy" in fails("run", "twice", "-i", "wide.npy")
    assert "this is no .npy file" in fails("run", "twice", "-i", "x=twice.pt2")
    assert "float32[2, 9]" in fails("run", "twice", "-i", "x=wide.npy")


def test_prompts_that_do_not_fit(fails: Callable[..., str]):
    assert "takes token ids only" in fails("generate", "llama", "hello")
    assert "is not a language model" in fails("generate", "twice", "hello")
    model = mpkir.LanguageModel.load("llama")
    with pytest.raises(MpkirError, match="the prompt is empty"):
        model.generate([])
    with pytest.raises(MpkirError, match=r"17 prompt tokens .* the program has 16"):
        model.generate([1] * 17, max_new_tokens=1)
    with pytest.raises(MpkirError, match="larger capacity"):
        model.generate([1] * 10, max_new_tokens=8)
    with pytest.raises(MpkirError, match="outside the vocabulary of 64"):
        model.generate([1, 64], max_new_tokens=1)
    with pytest.raises(MpkirError, match="at least 1"):
        model.generate([1], max_new_tokens=0)
    assert len(model.generate([1] * 10, max_new_tokens=7).tokens) == 7


def test_weights_that_do_not_match(here: Path):
    weights = load_file(here / "twice" / "weights.safetensors")
    weight = weights["layer.weight"]
    for wrong, message in (
        (weight[:4], r"'layer.weight' is float32\[4, 8\].*float32\[8, 8\]"),
        (weight.double(), "float64"),
        (None, "'layer.weight' is missing"),
    ):
        given = {k: v for k, v in (weights | {"layer.weight": wrong}).items() if v is not None}
        with pytest.raises(MpkirError, match=message):
            mpkir.load("twice", weights=given)


def test_a_weight_file_that_changed(here: Path, fails: Callable[..., str]):
    file = here / "twice" / "weights.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)
    assert "has changed since the artifact was written" in fails("run", "twice")


def test_a_truncated_table(here: Path, fails: Callable[..., str]):
    file = here / "twice" / "table" / "tasks.npy"
    file.write_bytes(file.read_bytes()[:-8])
    assert "truncated" in fails("run", "twice")


def test_text_that_is_no_table(here: Path, fails: Callable[..., str]):
    (here / "bad.mpkt").write_text("mpkt 1\n\nworker 0\n  nothing[0]\n")
    assert "bad.mpkt:4" in fails("asm", "bad.mpkt", "-o", "table")
    assert "cannot be read" in fails("asm", "nothing.mpkt", "-o", "table")


PIPELINES = {
    "mpk-fuse-operator": "did you mean 'mpk-fuse-operators'?",
    "mpk-partition-tiles{worker=4}": "its options are workers=132",
    "mpk-partition-tiles{workers=many}": "mpk-partition-tiles: incompatible types",
    "mpk-partition-tiles{workers=4": "Malformed pass arguments",
    "mpk-pipeline{target=h9000}": "no machine is named 'h9000'",
}


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_pipelines_with_a_typo(pipeline: str, here: Path, fails: Callable[..., str]):
    (here / "empty.mlir").write_text("builtin.module {}\n")
    assert PIPELINES[pipeline] in fails("empty.mlir", "-p", pipeline, tool=mpk_opt.main)


def test_a_debug_flag_shows_the_traceback(here: Path):
    with pytest.raises(MpkirError):
        mpk.main(["inspect", "nothing", "--debug"])
    with pytest.raises(MpkirError):
        mpk_opt.main(["nothing.mlir", "-p", "mpk-rais", "--debug"])
