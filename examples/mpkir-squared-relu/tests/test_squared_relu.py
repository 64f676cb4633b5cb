"""A model with a squared-ReLU gated MLP, from PyTorch through mpkir, where the package is
installed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import mpkir


class Mlp(torch.nn.Module):
    """The MLP of a transformer's layer, with sizes that do not divide evenly."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = torch.nn.Linear(72, 200, bias=False)
        self.up = torch.nn.Linear(72, 200, bias=False)
        self.down = torch.nn.Linear(200, 72, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.gate(x)).square() * self.up(x))


@pytest.fixture
def model() -> Mlp:
    torch.manual_seed(0)
    return Mlp().to(torch.bfloat16)


def test_it_computes_what_pytorch_does(model: Mlp, tmp_path: Path):
    x = torch.randn(3, 72, dtype=torch.bfloat16)
    program = mpkir.compile(model, (x,), workers=3, output=tmp_path / "out", dump=tmp_path / "ir")
    assert "squared_relu.gated" in (tmp_path / "ir" / "00-squared-relu-raise.mlir").read_text()
    assert "squared_relu/gated.hpp" in (tmp_path / "out" / "kernel.cpp").read_text()
    exact = model.float()(x.float())
    eager = (model.bfloat16()(x).float() - exact).abs().max()
    assert (program(x).float() - exact).abs().max() <= 1.5 * eager


def test_it_compiles_for_a_gpu(model: Mlp, tmp_path: Path):
    if not shutil.which("nvcc"):
        pytest.skip("no nvcc")
    x = torch.randn(1, 72, dtype=torch.bfloat16)
    from mpkir.compiler import compile_module
    from mpkir.frontend import export_module, import_program
    from mpkir.machine import machine_named

    module = import_program(export_module(model, (x,), None))
    artifact = compile_module(module, machine_named("h100"), output=tmp_path / "out")
    assert "SquaredRelu<body_0>" in (artifact.path / "kernel.cu").read_text()


def test_what_only_looks_like_it_is_left_alone(tmp_path: Path):
    class Other(Mlp):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down(torch.relu(self.gate(x)).square() * self.up(x + 1))

    x = torch.randn(1, 72)
    mpkir.compile(Other(), (x,), workers=2, output=tmp_path / "out", dump=tmp_path / "ir")
    assert "squared_relu.gated" not in (tmp_path / "ir" / "00-squared-relu-raise.mlir").read_text()
