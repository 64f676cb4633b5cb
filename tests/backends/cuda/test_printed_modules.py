"""Printed programs of exported modules, run on the stand-ins, give what PyTorch gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mpkir.backends.body import bodies_of
from mpkir.backends.cuda.emit import emit
from mpkir.frontend import export_module, import_program, signature_of
from mpkir.machine import machine_named
from mpkir.pipeline import lower
from mpkir.runtime.build_cuda import build_cuda, find_nvcc


class _Mixer(nn.Module):
    """Products, both norms, softmax, reductions, views: everything with a skeleton of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(24, 40)
        self.narrow = nn.Linear(7, 9, bias=False)
        self.norm = nn.LayerNorm(24)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        h = torch.nn.functional.gelu(self.first(self.norm(x)))
        a, b = h[:, 3:10], h[:, ::4]
        y = self.narrow(a).softmax(-1)
        z = torch.cat((y, b), 1).transpose(0, 1)
        return y @ y.T, z.mean(0), z.amax(1), (x.argmax(-1) > 3), z[2:6].reshape(2, -1)


class _Attend(nn.Module):
    """Attention without a cache, grouped heads, masked."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        plain = nn.functional.scaled_dot_product_attention(q, k, k, is_causal=True)
        masked = nn.functional.scaled_dot_product_attention(q, k, k, attn_mask=keep)
        return plain - masked


class _Readers(nn.Module):
    """What reads through slices, transposes and broadcasts of buffers, products among it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 48)
        self.norm = nn.LayerNorm(6)
        self.gated = nn.Linear(16, 9)
        self.of_columns = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = torch.tanh(self.first(x))
        q, k, v = (part.view(1, 6, 2, 8).transpose(1, 2) for part in y.split(16, -1))
        gate, up = y[:, :16], y[:, 32:]
        columns = y[:, ::4].T
        return (
            torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True),
            self.gated(gate),
            self.gated(up) * gate[:, :9],
            self.of_columns(columns),
            self.norm(columns),
            columns @ y[:, 3:7],
            columns.softmax(0),
            y[::2, 1::3].amax(0),
            y[:1, :9].expand(6, 9) + y[:, :1],
            torch.cat((y[:, 2:5], columns[:6, ::2]), 1),
            columns.argmax(-1),
        )


class _Normed(nn.Module):
    """Products of several rows behind a norm, over weights in f32, streamed row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rms = nn.RMSNorm(64, eps=1e-6)
        self.layer = nn.LayerNorm(64)
        self.gate, self.up = nn.Linear(64, 24, bias=False), nn.Linear(64, 40)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.gate(self.rms(x)), self.up(self.layer(x))


def _attend_inputs() -> tuple[torch.Tensor, ...]:
    keep = torch.rand(6, 6) > 0.3
    return torch.randn(2, 4, 6, 8), torch.randn(2, 4, 6, 8), keep | torch.eye(6, dtype=torch.bool)


_CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[torch.Tensor, ...]]]] = {
    "mixer": (_Mixer, lambda: (torch.randn(5, 24),)),
    "attend": (_Attend, _attend_inputs),
    "readers": (_Readers, lambda: (torch.randn(6, 16),)),
    "normed": (_Normed, lambda: (torch.randn(3, 64),)),
}


@pytest.mark.parametrize("name", _CASES)
@torch.no_grad()
def test_like_torch(
    name: str, on_host: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    make, inputs = _CASES[name]
    model, arguments = make(), inputs()
    exported = export_module(model, arguments)
    signature = signature_of(exported)
    module = import_program(exported)
    machine = machine_named("h100", workers=3)
    lower(module, machine)
    if find_nvcc() is not None:
        monkeypatch.setenv("MPKIR_CACHE", str(tmp_path))
        assert build_cuda(emit(bodies_of(module), machine, 1), machine.arch)
    program = on_host(module, machine)
    program.bind(exported.state_dict)
    program.bind(exported.constants)
    program.bind(dict(zip(signature.inputs, arguments, strict=True)))
    assert program.run(0, 1) == 1
    expected = model(*arguments)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for output, value in zip(signature.outputs, expected, strict=True):
        found = program.buffers[output].reshape(value.shape)
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5)
