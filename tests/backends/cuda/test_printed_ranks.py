"""Printed programs of whole models for several ranks, one rank after the other on the stand-ins,
give the logits of transformers."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from mpkir.backends.body import bodies_of
from mpkir.backends.cuda.emit import emit
from mpkir.backends.table import buffers_of, table_of
from mpkir.dialects.task import ScatterOp
from mpkir.frontend import decode_step, weights_of
from mpkir.machine import machine_named
from mpkir.pipeline import lower
from mpkir.runtime.buffers import allocate, bind
from mpkir.runtime.manifest import Buffer, Part, Place, Shard
from mpkir.runtime.ranks.peers import Peers
from mpkir.variant import Variant

HOST = Path(__file__).parent / "host"
CPU = torch.device("cpu")
CAPACITY, STEPS, PROMPT = 48, 40, (3, 1, 4, 15)


class HostRanks:
    """A scheduled module printed as CUDA, run family after family, in each on one rank after the
    other."""

    def __init__(
        self, module: Any, machine: Any, ranks: int, tensors: Mapping[str, torch.Tensor], at: Path
    ) -> None:
        text = re.sub(r"#include <mpk/.*>\n", "", emit(bodies_of(module), machine, 1))
        (at / "kernel.cpp").write_text('#include "stand_in.hpp"\n' + text)
        command = ["c++", "-std=c++17", "-O1", "-shared", "-fPIC", f"-I{HOST}"]
        command += ["-o", str(at / "kernel.so"), str(at / "kernel.cpp")]
        subprocess.run(command, check=True)
        self._library = ctypes.CDLL(str(at / "kernel.so"))
        self.table, self.ranks = table_of(module), ranks
        specs = [_buffer(each) for each in buffers_of(module)]
        exchanged = [spec for spec in specs if spec.exchange]
        sizes = [8 * prod(spec.shape) for spec in exchanged]
        self.heaps = torch.zeros(ranks, sum(sizes) // 8, dtype=torch.int64)
        self.exchanges = len(exchanged)
        self.buffers: list[dict[str, torch.Tensor]] = []
        for rank in range(ranks):
            parts = self.heaps[rank].split([size // 8 for size in sizes])
            held = {
                spec.name: part.view(allocate(spec, CPU).dtype)[: prod(spec.shape)]
                for spec, part in zip(exchanged, parts, strict=True)
            }
            for spec in specs:
                if spec.kind == "weight":
                    held[spec.name] = bind(spec, tensors, CPU, Place(rank, ranks))
                elif not spec.exchange:
                    held[spec.name] = allocate(spec, CPU)
            self.buffers.append({spec.name: held[spec.name] for spec in specs})

    def run(self, steps: int) -> None:
        """Run so many steps from the first position on."""
        stop = ctypes.c_int(steps)
        for step in range(steps):
            for number, (body, tasks) in enumerate(self.table.families[:, :2].tolist()):
                for rank in range(self.ranks):
                    peers = Peers(rank, self.ranks)
                    peers.delta[: self.ranks] = [
                        (other - rank) * self.heaps[0].nbytes for other in range(self.ranks)
                    ]
                    self._library.set_peers(ctypes.byref(peers))
                    held = [tensor.data_ptr() for tensor in self.buffers[rank].values()]
                    array = (ctypes.c_void_p * 12)(*(held[b] for b in self.table.operands(number)))
                    for index in range(tasks):
                        at = ctypes.c_longlong(step)
                        self._library.run_task(body, index, array, at, step, ctypes.byref(stop))


def _buffer(each: Any) -> Buffer:
    return Buffer(
        each.name,
        each.kind,
        each.dtype,
        each.shape,
        source=each.symbol,
        initial=each.initial,
        flagged=each.flagged,
        brief=each.brief,
        apart=each.apart,
        panels=0 if each.panels is None else each.panels.group,
        columns=0 if each.panels is None else each.panels.columns,
        planes=each.planes,
        packed=each.packed,
        parts=tuple(Part(name, rows, _shard(shard)) for name, rows, shard in each.parts),
        shard=_shard(each.shard),
        exchange=each.exchange,
    )


def _shard(shard: Any) -> Shard | None:
    return None if shard is None else Shard(shard.dim.data, shard.of.data)


@pytest.mark.parametrize(
    ("ranks", "handoffs", "shots"),
    [
        (2, ("counter",), 1),
        (2, ("counter", "flag"), 1),
        (4, ("counter", "flag"), 1),
        (4, ("counter",), 2),
        (4, ("counter", "flag"), 2),
    ],
    ids=["2-counter", "2-flag", "4-flag", "4-counter-parts", "4-flag-parts"],
)
@torch.no_grad()
def test_logits_and_tokens(
    ranks: int, handoffs: tuple[str, ...], shots: int, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    config = Qwen3Config(
        num_hidden_layers=2,
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=16,
        max_position_embeddings=64,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
    machine = machine_named("h200", workers=5)
    tiles = replace(machine.tiles, attention_chunk=32, attention_bytes=0)
    machine = replace(machine, tiles=tiles, handoffs=handoffs)
    module = decode_step(model, CAPACITY)
    options = (("mpk-shard", "exchange_us", 0.0005), ("mpk-shard", "shots", shots))
    dividing = Variant(options=options)
    lower(module, machine, tp=ranks, variant=dividing)
    tensors = {**weights_of(model), **dict(model.named_buffers())}
    program = HostRanks(module, machine, ranks, tensors, tmp_path)
    assert program.exchanges >= 2 * shots * config.num_hidden_layers
    scattered = [op for op in module.walk() if isinstance(op, ScatterOp)]
    assert len(scattered) == (2 * config.num_hidden_layers if shots == 2 else 0)
    for held in program.buffers:
        held["tokens"][: len(PROMPT)] = torch.tensor(PROMPT)
    program.run(STEPS)
    tokens = program.buffers[0]["tokens"]
    for held in program.buffers[1:]:
        assert torch.equal(held["tokens"], tokens)
    exact = model.float()(tokens[None, :STEPS], use_cache=False).logits[0]
    half = model.bfloat16()(tokens[None, :STEPS], use_cache=False).logits[0].float()
    parts = [held["logits"].flatten() for held in program.buffers]
    ours = parts[0] if len(parts[0]) == config.vocab_size else torch.cat(parts)
    assert (ours - exact[-1]).norm() <= 1.5 * (half[-1] - exact[-1]).norm()
    first = len(PROMPT) - 1
    gaps = exact[first:].topk(2, -1).values
    clear = gaps[:, 0] - gaps[:, 1] > 2 * (half[first:] - exact[first:]).abs().max(-1).values
    chosen = tokens[first + 1 : STEPS + 1]
    assert torch.equal(exact[first:].argmax(-1)[clear], chosen[clear])
