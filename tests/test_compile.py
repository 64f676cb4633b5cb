"""`mpkir.compile` on modules of every shape of call: the results against PyTorch's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mpkir
from mpkir import MpkirError
from mpkir.progress import Progress


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One cache for this file, so that what is compiled twice is built once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPKIR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(40, 72)
        self.norm = nn.LayerNorm(72)
        self.second = nn.Linear(72, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.gelu(self.norm(self.first(x))))


class Several(nn.Module):
    """Nested arguments and results, an argument that nothing reads, a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16, bias=False)

    def forward(self, x: dict[str, Tensor], unused: Tensor, *, scale: Tensor) -> Any:
        y = self.layer(x["a"]) * scale
        return {"y": y, "parts": (y + x["b"], torch.relu(x["b"]))}


class Lookup(nn.Module):
    """Integers in, integers and floats out."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 24)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.table(ids), ids + 1


class Counter(nn.Module):
    """A buffer that every call changes."""

    total: Tensor

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("total", start)

    def forward(self, x: Tensor) -> Tensor:
        self.total.add_(x)
        return self.total * 2


class Residual(nn.Module):
    """No product with weights at all in one branch, in-place arithmetic in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.inner(x)
        x.mul_(0.5)
        return torch.softmax(x, -1)


MODULES = {
    "mlp": (Mlp, (torch.randn(4, 40),), {}),
    "one row": (Mlp, (torch.randn(1, 40),), {}),
    "several": (
        Several,
        ({"a": torch.randn(3, 16), "b": torch.randn(3, 16)}, torch.randn(2)),
        {"scale": torch.randn(16)},
    ),
    "integers": (Lookup, (torch.tensor([[3, 49, 0]]),), {}),
    "residual": (Residual, (torch.randn(2, 5, 32),), {}),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_compiled_module_computes_what_the_module_does(name: str):
    make, args, kwargs = MODULES[name]
    module = make().eval()
    program = mpkir.compile(module, args, kwargs)
    for _ in range(2):
        torch.testing.assert_close(program(*args, **kwargs), module(*args, **kwargs))


def test_a_policy_changes_no_bit():
    module, x = Residual().eval(), torch.randn(2, 5, 32)
    plain = mpkir.compile(module, (x,), workers=2)
    dynamic = mpkir.compile(module, (x.clone(),), workers=2, policy="dynamic")
    assert dynamic.table.dynamic_count > 0 == plain.table.dynamic_count
    assert dynamic.manifest.info["policy"] == "dynamic"
    assert torch.equal(dynamic(x.clone()), plain(x.clone()))


def test_an_unknown_policy():
    with pytest.raises(MpkirError, match="no scheduling policy is named 'fastest'; choose one of"):
        mpkir.compile(Mlp(), (torch.randn(1, 40),), policy="fastest")


def test_bfloat16_is_within_a_rounding_of_float32():
    module = Mlp().eval()
    x = torch.randn(4, 40)
    exact = module(x)
    program = mpkir.compile(module.bfloat16(), (x.bfloat16(),))
    torch.testing.assert_close(program(x.bfloat16()).float(), exact, atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize("start", [torch.zeros(4), torch.tensor([1.5, -2.0, 3.0, 0.25])])
def test_a_mutated_buffer_lives_on_from_its_first_value(start: Tensor):
    x = torch.arange(4.0)
    expected = Counter(start.clone())
    program = mpkir.compile(Counter(start.clone()), (x,))
    for _ in range(3):
        torch.testing.assert_close(program(x), expected(x))
    program.reset()
    torch.testing.assert_close(program(x), (start + x) * 2)


def test_an_exported_program_keeps_its_arguments():
    module = Mlp().eval()
    x = torch.randn(4, 40)
    exported = torch.export.export(module, (x,))
    torch.testing.assert_close(mpkir.compile(exported)(x), module(x))
    with pytest.raises(MpkirError, match="has its arguments already"):
        mpkir.compile(exported, (x,))


def test_an_artifact_with_its_weights_runs_without_the_module(tmp_path: Path):
    module = Mlp().eval()
    x = torch.randn(4, 40)
    mpkir.compile(module, (x,), output=tmp_path / "mlp")
    torch.testing.assert_close(mpkir.load(tmp_path / "mlp")(x), module(x))


def test_what_was_compiled_is_taken_from_the_cache():
    module = Mlp().eval()
    x = torch.randn(7, 40)
    stages: list[str] = []
    progress = Progress(begin=stages.append)
    first = mpkir.compile(module, (x,), progress=progress)
    assert {"export", "import", "emit", "build", "write"} <= {*stages}
    stages.clear()
    again = mpkir.compile(module, (x,), progress=progress)
    assert stages == ["export", "look into the cache"]
    assert again.artifact.path == first.artifact.path
    (first.artifact.path / "table.mpkt").write_text("damaged")
    stages.clear()
    mpkir.compile(module, (x,), progress=progress)
    assert "write" in stages, "a damaged artifact was taken"


def test_the_time_of_every_stage_is_told():
    ended: dict[str, float] = {}
    mpkir.compile(Mlp(), (torch.randn(3, 40),), progress=Progress(end=ended.__setitem__))
    assert all(seconds >= 0 for seconds in ended.values())
    assert {"export", "raise", "partition-tiles", "verify-schedule", "build"} <= {*ended}


def test_the_program_uses_the_number_of_workers_asked_for():
    program = mpkir.compile(Mlp(), (torch.randn(4, 40),), workers=3)
    assert program.table.worker_count == 3


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((torch.randn(4, 41),), {}, r"input 'x' is float32\[4, 41\].*float32\[4, 40\]"),
        ((torch.randn(4, 40).double(),), {}, "float64"),
        ((), {}, "not arranged as in the example"),
        ((torch.randn(4, 40), torch.randn(1)), {}, "not arranged as in the example"),
        ((), {"x": torch.randn(4, 40)}, "not arranged as in the example"),
        ((4.0,), {}, "expected a tensor"),
    ],
)
def test_wrong_arguments_are_named(args: Any, kwargs: Any, message: str):
    program = mpkir.compile(Mlp(), (torch.randn(4, 40),))
    with pytest.raises(MpkirError, match=message):
        program(*args, **kwargs)
