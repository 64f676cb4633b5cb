"""topk against PyTorch, and what is said of expert layers that group tokens instead."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mpkir.backends.interpreter.tensor_level import run_step
from mpkir.errors import MpkirError
from mpkir.frontend import import_program


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor):
        return self.function(x)


def test_topk_gives_values_and_indices() -> None:
    x = torch.randn(3, 9)
    imported = import_program(torch.export.export(Function(lambda x: x.topk(4)), (x,)))
    outputs = run_step(imported, {}, {}, {"x": x.numpy()}, 0)
    values, indices = x.topk(4)
    np.testing.assert_array_equal(outputs["output0"], values.numpy())
    np.testing.assert_array_equal(outputs["output1"], indices.numpy())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.topk(2, dim=0)[0], "along the last dimension only"),
        (lambda x: x.topk(2, largest=False)[0], "chooses the smallest elements"),
        (lambda x: x.sort()[0], "set_experts_implementation"),
    ],
)
def test_what_is_not_supported_is_said(function, message: str) -> None:
    program = torch.export.export(Function(function), (torch.randn(3, 9),))
    with pytest.raises(MpkirError) as caught:
        import_program(program)
    assert message in str(caught.value)
