"""Operators that read through slices, transposes and broadcasts of buffers, against PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

import mpkir
from mpkir.dialects.task import GridOp
from mpkir.frontend import export_module, import_program
from mpkir.machine import machine_named
from mpkir.passes.partition_tiles import PartitionTilesPass
from mpkir.pipeline import lower


class FusedProjections(nn.Module):
    """Queries, keys and values from one product, gate and up from another: all parts are views."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(24, 48)
        self.out = nn.Linear(16, 24)
        self.gate_up = nn.Linear(24, 36)
        self.down = nn.Linear(18, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            part.view(batch, length, 2, 8).transpose(1, 2) for part in self.qkv(x).split(16, -1)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, 16))
        gate, up = self.gate_up(x).chunk(2, -1)
        return x + self.down(functional.silu(gate) * up)


class Readers(nn.Module):
    """Every operator that takes strides, on views of what an operator has computed."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.first = nn.Linear(10, 10)
        self.of_columns = nn.Linear(6, 3)
        self.table = nn.Embedding(8, 4)

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = torch.tanh(self.first(x))
        columns = y.T
        return (
            y[:, 1::3].softmax(-1),
            columns.softmax(0),
            y[::2].sum(0),
            columns[2:9:2].amax(-1),
            self.norm(columns),
            columns @ y[:, 3:7],
            y[:1].expand(6, 10) * y[:, :1],
            torch.cat((y[:, 2:5], columns[:6, ::2]), 1),
            columns.argmax(-1),
            self.of_columns(columns),
            self.table(ids[1::2]),
            columns.reshape(3, 20) + 1,
            y[:, ::2].unsqueeze(1).expand(6, 2, 5).reshape(6, 10),
        )


def outputs(result: Any) -> tuple[torch.Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (FusedProjections, (torch.randn(2, 5, 24),)),
        (Readers, (torch.randn(6, 10), torch.tensor([3, 1, 7, 0, 5, 2]))),
    ],
)
@torch.no_grad()
def test_like_torch(make: type[nn.Module], arguments: tuple[torch.Tensor, ...]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    program = mpkir.compile(model, arguments, target="cpu", workers=2)
    for found, wanted in zip(outputs(program(*arguments)), outputs(model(*arguments)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_parts_of_fused_projections_are_not_copied() -> None:
    """Only what the heads have mixed is laid out again, in rows for the next product."""
    module = import_program(export_module(FusedProjections(), (torch.randn(2, 5, 24),)))
    kinds: list[str] = []

    def note(stage: ModulePass, module: ModuleOp) -> None:
        if isinstance(stage, PartitionTilesPass):
            grids = [op for op in module.walk() if isinstance(op, GridOp)]
            kinds.extend([*op.body.block.ops][-2].name for op in grids)

    lower(module, machine_named("cpu", workers=2), after_pass=note)
    assert [kind.removeprefix("mpk_tensor.") for kind in kinds] == [
        "linear",
        "sdpa",
        "reshape",
        "linear",
        "linear",
        "elementwise",
        "linear",
    ]
