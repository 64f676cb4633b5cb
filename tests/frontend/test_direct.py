"""What a program writes in place becomes values, imported as it stands or retraced."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mpkir.backends.interpreter.tensor_level import initial_states, run_step
from mpkir.frontend import import_program
from mpkir.frontend.aten import LOWERINGS
from mpkir.frontend.direct import is_direct


class Fresh(nn.Module):
    """Writes to what nobody else sees, under a mode that means nothing here."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            z = x * 2
        y = z + 1
        y /= y.sum(-1, keepdim=True)
        y.add_(1)
        return y * z


class Chained(nn.Module):
    """Writes through a view whose base is read afterwards."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x + 1
        y[0].mul_(3)
        return y


class Seen(nn.Module):
    """Writes to a value of which an older view is read afterwards."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x + 1
        row = y[1]
        y.mul_(3)
        return row


class Cached(nn.Module):
    """Writes a row of a buffer, reads all of it and writes another."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.zeros(1, 2, 4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.cache.index_copy_(2, torch.tensor([1]), x)
        y = self.cache.sum(2)
        self.cache.index_copy_(2, torch.tensor([3]), x + 1)
        return y


@pytest.mark.parametrize(
    ("module", "shape", "direct"),
    [
        (Fresh(), (3, 5), True),
        (Chained(), (2, 3), False),
        (Seen(), (2, 3), False),
        (Cached(), (1, 2, 1, 3), True),
    ],
    ids=["fresh", "chained", "seen", "cached"],
)
def test_writes_become_values(module: nn.Module, shape: tuple[int, ...], direct: bool) -> None:
    x = torch.rand(shape)
    program = torch.export.export(module, (x,), strict=False)
    known = {*LOWERINGS, torch.ops.aten._assert_tensor_metadata.default}
    assert is_direct(program, known) == direct
    imported = import_program(program)
    imported.verify()
    states = initial_states(imported)
    expected = module(x)
    result = run_step(imported, {}, states, {"x": x.numpy()}, 0)["output0"]
    np.testing.assert_allclose(result, expected.detach().numpy(), rtol=1e-6)
    for name, buffer in module.named_buffers():
        np.testing.assert_array_equal(states[name], buffer.numpy())
