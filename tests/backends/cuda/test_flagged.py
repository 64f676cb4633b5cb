"""Flagged buffers: how they are printed, what they are in memory, who refuses them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from mpkir.backends.body import bodies_of
from mpkir.backends.cpu import emit as cpu
from mpkir.backends.cuda.emit import emit
from mpkir.backends.table import buffers_of
from mpkir.errors import MpkirError
from mpkir.machine import machine_named
from mpkir.pipeline import context
from mpkir.runtime.buffers import allocate, untagged, values_of, words_of
from mpkir.runtime.manifest import Buffer, Manifest, Target

ZERO = "affine_map<(d0) -> (0)>"
TEXT = f"""
func.func @step() {{
  %x = mpk_task.buffer scratch "x" flagged : memref<8xbf16>
  %y = mpk_task.buffer scratch "y" : memref<8xbf16>
  mpk_task.grid @write [1] writes(%x : memref<8xbf16>) boxes [#mpk_task.region<{ZERO}, [8]>] {{
    %0 = mpk_tensor.full 1.0 : bf16 : tensor<8xbf16>
    mpk_task.yield %0 : tensor<8xbf16>
  }}
  mpk_task.grid @flagged [1] reads(%x : memref<8xbf16>) writes(%y : memref<8xbf16>)
      boxes [#mpk_task.region<{ZERO}, [8]>, #mpk_task.region<{ZERO}, [8]>] {{
  ^bb0(%0 : tensor<8xbf16>):
    mpk_task.yield %0 : tensor<8xbf16>
  }}
  mpk_task.grid @plain [1] reads(%y : memref<8xbf16>) writes(%y : memref<8xbf16>)
      boxes [#mpk_task.region<{ZERO}, [8]>, #mpk_task.region<{ZERO}, [8]>] {{
  ^bb0(%0 : tensor<8xbf16>):
    mpk_task.yield %0 : tensor<8xbf16>
  }}
  func.return
}}
"""


@pytest.fixture
def module() -> ModuleOp:
    return Parser(context(), TEXT).parse_module()


def test_elements_are_awaited_and_published(module: ModuleOp) -> None:
    bodies = bodies_of(module)
    assert [body.families for body in bodies] == [("write",), ("flagged",), ("plain",)]
    source = emit(bodies, machine_named("h100"), 1)
    write, flagged, plain = source.split("struct body_")[1:4]
    assert "w.at<mpk::Tagged<mpk::bf16>>(0)" in write
    assert "mpk::publish(p0(w, " in write
    assert "mpk::await(p0(w, " in flagged
    assert "mpk::store(p1(w, " in flagged
    assert "Tagged" not in plain


def test_threads_refuse_them(module: ModuleOp) -> None:
    with pytest.raises(MpkirError, match="flagged buffers, and threads have only counters"):
        cpu.emit(bodies_of(module), 1, 1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_word_holds_the_value_and_its_tag(dtype: str) -> None:
    buffer = Buffer("x", "scratch", dtype, (2, 3), flagged=True)
    memory = allocate(buffer, torch.device("cpu"))
    assert memory.shape == (2, 3)
    assert memory.itemsize == (8 if dtype == "float32" else 4)
    assert not memory.any()
    values = torch.arange(6).view(2, 3).to(getattr(torch, dtype)) - 2
    bits, tag = values.view({4: torch.int32, 2: torch.int16}[values.itemsize]), 77
    if dtype == "float32":
        memory.copy_((tag << 32) | (bits.long() & 0xFFFFFFFF))
    else:
        memory.copy_((bits.int() << 16) | tag)
    assert torch.equal(values_of(buffer, memory), values)


@pytest.mark.parametrize("tag", [6, 7])
def test_brief_bf16_lies_in_two_bytes(tag: int) -> None:
    buffer = Buffer("x", "scratch", "bfloat16", (2, 8), flagged=True, brief=True, apart=8)
    memory = allocate(buffer, torch.device("cpu"))
    assert memory.shape == (2, 64)  # lines of 128 bytes
    assert memory.itemsize == 2
    assert not memory.any()
    assert untagged(words_of(buffer, memory), 7, brief=True).all()
    values = torch.arange(16).view(2, 8).bfloat16() * 3e18 - 1.5  # 2^64 is 18e18
    bits = (values * 2.0**-64).view(torch.int16)
    bits = torch.where(values < 2.0**64, bits, 0x3F80)
    memory[:, :8] = bits | (tag & 1) << 14
    found = values_of(buffer, memory)
    fits = values < 2.0**64
    assert fits.sum() == 7
    assert torch.equal(found[fits], values[fits])
    assert found[~fits].isnan().all()
    assert not untagged(words_of(buffer, memory), tag, brief=True).any()
    assert untagged(words_of(buffer, memory), tag + 1, brief=True).all()


@pytest.mark.parametrize(("tokens", "group"), [(5, 8), (8, 32), (9, 8)])
def test_tokens_lie_in_panels(tokens: int, group: int) -> None:
    shape = (tokens, 2, 32)
    buffer = Buffer(
        "x", "scratch", "float32", shape, flagged=True, brief=True, panels=group, columns=64
    )
    memory = allocate(buffer, torch.device("cpu"))
    rows = -(-tokens // 8) * 8
    assert memory.numel() == 64 * rows
    values = torch.randn(shape)
    words = values.view(torch.int32) & ~1 | 1
    flat = memory.view(-1)
    for t in range(tokens):
        for k in range(64):
            place = k // group * (group * rows) + t * group + k % group
            flat[place] = words[t, k // 32, k % 32]
    assert torch.equal(words_of(buffer, memory), words)
    assert torch.equal(values_of(buffer, memory), (words - 1).view(torch.float32))
    flat[0] = 0
    late = untagged(words_of(buffer, memory), 1, brief=True)
    assert late.numel() == values.numel()
    assert late.nonzero().tolist() == [[0]]  # rows that no token has count for nothing


def test_floats_lie_in_two_planes() -> None:
    buffer = Buffer(
        "x",
        "scratch",
        "float32",
        (5, 64),
        flagged=True,
        brief=True,
        panels=8,
        columns=64,
        planes=True,
    )
    memory = allocate(buffer, torch.device("cpu"))
    assert memory.dtype == torch.int16
    assert memory.shape == (2, 8, 8, 8)
    values = torch.randn(5, 64)
    rounded = values.bfloat16()
    for plane, part in enumerate((rounded, (values - rounded).bfloat16())):
        bits = (part * 2.0**-64).view(torch.int16) | 0x4000  # of an odd step
        memory[plane, :, :5] = bits.view(5, 8, 8).transpose(0, 1)
    torch.testing.assert_close(values_of(buffer, memory), values, rtol=2**-16, atol=0)
    memory[1, 0, 2, 3] = 0
    late = untagged(words_of(buffer, memory), 1, brief=True)
    assert late.nonzero().tolist() == [[5 * 64 + 2 * 64 + 3]]


def test_a_manifest_says_which(module: ModuleOp) -> None:
    assert [buffer.flagged for buffer in buffers_of(module)] == [True, False]
    target = Target("cuda", "h100", "sm_90a", 1)

    def manifest(buffer: Buffer) -> Manifest:
        return Manifest(target, (buffer,), ("b",), ("f",), (), "kernel.cu", "kernel.cubin")

    good = manifest(Buffer("x", "scratch", "bfloat16", (8,), flagged=True))
    assert Manifest.from_json(good.to_json(), "here").buffers[0].flagged
    for kind, dtype in (("output", "bfloat16"), ("scratch", "int64")):
        with pytest.raises(MpkirError, match="scratch is flagged"):
            manifest(Buffer("x", kind, dtype, (8,), flagged=True)).validate()
    manifest(Buffer("x", "scratch", "bfloat16", (8,), flagged=True, brief=True)).validate()
    good = Buffer("x", "scratch", "float32", (8, 64), flagged=True, panels=8, columns=64)
    manifest(good).validate()
    for wrong in (
        {"columns": 48},
        {"columns": 0},
        {"panels": 24},
        {"apart": 8},
        {"flagged": False},
    ):
        with pytest.raises(MpkirError, match="does not lie in panels"):
            manifest(replace(good, **wrong)).validate()
    for wrong in ({"brief": False}, {"panels": 0}, {"dtype": "bfloat16"}):
        with pytest.raises(MpkirError, match="lies in planes"):
            manifest(replace(good, **({"brief": True, "planes": True} | wrong))).validate()
    with pytest.raises(MpkirError, match="are brief"):
        manifest(Buffer("x", "scratch", "float16", (8,), flagged=True, brief=True)).validate()
