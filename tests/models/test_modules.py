"""Modules that are no language models of transformers, called like the modules they come from."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import mpkir


class Block(nn.Module):
    """GPT-2's kind of layer: LayerNorm, an MLP with GELU, biases, a residual."""

    def __init__(self, size: int, approximate: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.up = nn.Linear(size, 4 * size)
        self.act = nn.GELU(approximate)
        self.down = nn.Linear(4 * size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.act(self.up(self.norm(x))))


def make_blocks(dtype: torch.dtype, approximate: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(Block(40, approximate), Block(40, approximate), nn.LayerNorm(40))
    return model.to(dtype).eval()


def check(program, model: nn.Module, inputs: list[tuple[torch.Tensor, ...]]) -> None:
    """No further from the fp32 model than 1.5 times PyTorch's own arithmetic, over all inputs."""
    exact = copy.deepcopy(model).float()
    ours, torchs = [], []
    for each in inputs:
        with torch.no_grad():
            wanted = exact(*(x.float() for x in each))
            rounded = model(*each).float()
        found = program(*each).float()
        assert found.shape == wanted.shape
        ours.append((found - wanted).abs())
        torchs.append((rounded - wanted).abs())
    # One largest error of few numbers is chance; their mean is not.
    assert torch.stack(ours).mean() <= max(1.5 * torch.stack(torchs).mean().item(), 1e-6)
    assert torch.stack(ours).max() <= max(3 * torch.stack(torchs).max().item(), 1e-5)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_layer_norm_and_gelu(dtype: torch.dtype, approximate: str) -> None:
    model = make_blocks(dtype, approximate)
    inputs = [(torch.randn(3, 40, dtype=dtype),) for _ in range(3)]
    check(mpkir.compile(model, inputs[0], target="cpu", workers=3), model, inputs)


class PostNorm(nn.Module):
    """The first transformers' order: what a product reads normalized is also added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(24)
        self.project = nn.Linear(24, 24, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = self.norm(x)
        return self.project(n) + n


class SameNames(nn.Module):
    """An argument with the name of the submodule that it is handed to."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(24)
        self.softmax = nn.Softmax(-1)

    def forward(self, norm: torch.Tensor, softmax: torch.Tensor) -> torch.Tensor:
        return self.norm(norm) * self.softmax(softmax)


class Outputs(nn.Module):
    """Values that leave the program and are read on, one of them twice, and an input as it came."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(24, 24)
        self.b = nn.Linear(24, 7)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        h = torch.relu(self.a(x))
        return h, self.b(h), h, x, h.reshape(2, 2, 24)


def test_a_norm_that_is_product_and_summand() -> None:
    torch.manual_seed(0)
    model = PostNorm().bfloat16().eval()
    inputs = [(torch.randn(1, 24).bfloat16(),) for _ in range(8)]
    check(mpkir.compile(model, inputs[0], target="cpu", workers=2), model, inputs)


def test_arguments_named_like_submodules() -> None:
    torch.manual_seed(0)
    model = SameNames().eval()
    inputs = [(torch.randn(2, 24), torch.randn(2, 24)) for _ in range(2)]
    check(mpkir.compile(model, inputs[0], target="cpu", workers=2), model, inputs)


def test_outputs_of_every_kind() -> None:
    torch.manual_seed(0)
    model = Outputs().eval()
    x = torch.randn(4, 24)
    program = mpkir.compile(model, (x,), target="cpu", workers=2)
    with torch.no_grad():
        wanted = model(x)
    found = program(x)
    assert len(found) == len(wanted)
    for ours, torchs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours.numpy(), torchs.numpy(), rtol=1e-5, atol=1e-5)
    assert found[0].equal(found[2])
    assert found[0].reshape(2, 2, 24).equal(found[4])
    assert found[3].equal(x)


class Accumulator(nn.Module):
    """Writes to two arguments, one of them in part, and reads both."""

    def forward(self, x: torch.Tensor, total: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        total.add_(x)
        rows[1].copy_(x)
        return (rows * total).sum(0)


def test_arguments_that_are_written() -> None:
    """The caller's tensors change like in PyTorch, and the manifest says which."""
    make = lambda: (torch.randn(6), torch.randn(6), torch.randn(3, 6))  # noqa: E731
    program = mpkir.compile(Accumulator(), make(), target="cpu", workers=2)
    donated = {buffer.name for buffer in program.manifest.buffers if buffer.donated}
    assert donated == {"total", "rows"}
    for _ in range(2):
        arguments = make()
        same = tuple(each.clone() for each in arguments)
        wanted = Accumulator()(*same)
        torch.testing.assert_close(program(*arguments), wanted)
        for ours, torchs in zip(arguments, same, strict=True):
            torch.testing.assert_close(ours, torchs)
