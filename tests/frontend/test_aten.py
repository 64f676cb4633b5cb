"""Every lowering against PyTorch: export a function, import it, run it in the interpreter."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mpkir.backends.interpreter.tensor_level import initial_states, run_step
from mpkir.frontend import import_program, weights_of


class _Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def as_array(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.detach().numpy()


def run(module: nn.Module, *args: torch.Tensor) -> list[np.ndarray]:
    """Results of the imported program."""
    program = torch.export.export(module, args, strict=False)
    imported = import_program(program)
    imported.verify()
    names = program.graph_signature.user_inputs
    inputs = {name: as_array(arg) for name, arg in zip(names, args, strict=True)}
    weights = {name: as_array(value) for name, value in weights_of(program).items()}
    outputs = run_step(imported, weights, initial_states(imported), inputs, 0)
    return [outputs[f"output{i}"] for i in range(len(outputs))]


def check(module: nn.Module, *args: torch.Tensor, tolerance: float | None = None) -> None:
    expected = module(*args)
    expected = expected if isinstance(expected, tuple) else (expected,)
    results = run(module, *args)
    assert len(results) == len(expected)
    for result, tensor in zip(results, expected, strict=True):
        assert result.shape == tuple(tensor.shape)
        assert result.dtype == as_array(tensor).dtype
        if not tensor.dtype.is_floating_point:
            np.testing.assert_array_equal(result, tensor.numpy())
            continue
        limit = tolerance or {torch.float32: 2e-6, torch.bfloat16: 1e-2}[tensor.dtype]
        np.testing.assert_allclose(
            result.astype(np.float32), tensor.detach().float().numpy(), rtol=limit, atol=limit
        )


def check_all(functions, *args: torch.Tensor) -> None:
    """One export for many functions of the same arguments: exports take longest here."""

    def flat(value) -> tuple[torch.Tensor, ...]:
        return tuple(value) if isinstance(value, list | tuple) else (value,)

    check(_Function(lambda *args: sum((flat(f(*args)) for f in functions.values()), ())), *args)


def floats(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


POSITIVE = floats(3, 5).abs() + 0.1
X, Y = floats(3, 5), floats(3, 5, seed=1)
N, M = torch.arange(-7, 8).reshape(3, 5), torch.arange(1, 16).reshape(3, 5)

UNARY = {
    "ceil": torch.ceil,
    "cos": torch.cos,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "floor": torch.floor,
    "round": torch.round,
    "sin": torch.sin,
    "tanh": torch.tanh,
    "trunc": torch.trunc,
    "neg": torch.neg,
    "abs": torch.abs,
    "square": torch.square,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "relu": F.relu,
    "softplus": F.softplus,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "pow3": lambda x: x**3,
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp_min": lambda x: x.clamp(min=0.1),
    "clamp_max": lambda x: x.clamp(max=0.1),
    "rsub": lambda x: 2.0 - x,
    "add_alpha": lambda x: torch.add(x, x, alpha=3),
    "sub_alpha": lambda x: torch.sub(x, 1.5, alpha=2),
    "div": lambda x: x / 3,
    "remainder": lambda x: x % 0.7,
    "floor_divide": lambda x: x // 0.7,
    "masked_fill": lambda x: x.masked_fill(x > 0, -3.0),
    "where_scalar": lambda x: torch.where(x > 0, x, -1.0),
    "where_scalars": lambda x: torch.where(x > 0, 1.0, 0.0),
    "where_self": lambda x: torch.where(x > 0, x, x * 2),
    "to_int": lambda x: (x * 10).to(torch.int64),
    "to_bool": lambda x: x.to(torch.bool),
    "to_bf16": lambda x: x.to(torch.bfloat16),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pointwise(dtype):
    check_all(UNARY, X.to(dtype))


def test_pointwise_of_positive_numbers():
    names = ("log", "log1p", "log2", "sqrt", "rsqrt", "reciprocal")
    check_all({name: getattr(torch, name) for name in names}, POSITIVE)


BINARY = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "max_other": torch.max,
    "min_other": torch.min,
    "eq": torch.eq,
    "ne": torch.ne,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "mixed": lambda a, b: a + b.to(torch.int64),
    "logic": lambda a, b: ((a > 0) & (b > 1)) | ~(a < b) ^ torch.logical_not(a > b),
}


@pytest.mark.parametrize("pair", [(X, Y), (N, M), (X, Y[0])], ids=["float", "int", "broadcast"])
def test_binary(pair):
    check_all(BINARY, *pair)


def test_integer_arithmetic():
    def function(a, b):
        return a // b, a % b, a * 3 - b, a**2, -a, a.abs(), torch.div(a, b, rounding_mode="trunc")

    check(_Function(function), N, M)


VIEWS = {
    "reshape": lambda x: x.reshape(6, 4),
    "transpose": lambda x: x.transpose(0, 2),
    "permute": lambda x: x.permute(1, 2, 0),
    "slice": lambda x: x[:, 1:3, ::2],
    "slice_end": lambda x: x[..., -2:],
    "select": lambda x: x[1, :, -1],
    "unsqueeze": lambda x: x[:, None].squeeze(1),
    "flatten": lambda x: x.flatten(1),
    "unflatten": lambda x: x.unflatten(2, (2, 2)),
    "expand": lambda x: x[:, None].expand(2, 5, 3, 4) + 0,
    "cat": lambda x: torch.cat([x, -x, x[:, :1]], dim=1),
    "stack": lambda x: torch.stack([x, -x], dim=-1),
    "split": lambda x: x.split([1, 2], dim=1),
    "chunk": lambda x: x.chunk(2, dim=-1),
    "unbind": lambda x: x.unbind(0),
    "repeat": lambda x: x.repeat(2, 1, 3),
    "repeat_interleave": lambda x: x.repeat_interleave(3, dim=1),
    "contiguous": lambda x: x.mT.contiguous().clone(),
    "narrow": lambda x: x.narrow(2, 1, 2),
}


def test_views_move_elements_exactly():
    check_all(VIEWS, torch.arange(24).reshape(2, 3, 4))


REDUCTIONS = {
    "mean": lambda x: x.mean(-1, keepdim=True),
    "mean_all": lambda x: x.mean(),
    "sum": lambda x: x.sum((0, 1)),
    "sum_all": lambda x: x.sum(),
    "amax": lambda x: x.amax(1),
    "amin": lambda x: x.amin(-1),
    "max": lambda x: x.max(),
    "max_dim": lambda x: tuple(x.max(-1)),
    "argmax": lambda x: x.argmax(-1),
    "argmax_all": lambda x: x.argmax(),
    "softmax": lambda x: x.softmax(-1),
    "softmax_middle": lambda x: x.softmax(1),
    "layer_norm": lambda x: F.layer_norm(x, (4,)),
    "rms_norm": lambda x: F.rms_norm(x, (4,)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reductions(dtype):
    check_all(REDUCTIONS, floats(2, 3, 4, dtype=dtype))


CREATION = {
    "arange": lambda x: torch.arange(5) + x[0, 0].to(torch.int64),
    "arange_step": lambda x: torch.arange(1, 10, 2) * 1.0 + x[0, 0],
    "full": lambda x: torch.full((2, 2), 3.5) + x[0, 0],
    "zeros_like": lambda x: torch.zeros_like(x) + x,
    "ones": lambda x: x.new_ones(2) * x[0, 0],
    "literal": lambda x: x * torch.tensor(2.0),
    "table": lambda x: x * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]),
}


def test_creation():
    check_all(CREATION, X)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear(bias, dtype):
    check(nn.Linear(8, 5, bias=bias, dtype=dtype), floats(2, 3, 8, dtype=dtype))


def test_products():
    def function(a, b, c):
        return a @ b, torch.bmm(a, b), torch.addmm(c, a[0], b[0], alpha=2.0), a[0] @ b[0, :, 0]

    check(_Function(function), floats(2, 3, 4), floats(2, 4, 5), floats(3, 5), tolerance=1e-5)


def test_embedding():
    table = nn.Embedding(10, 4)
    check(table, torch.tensor([[1, 9, 0]]))
    check(_Function(lambda w, i: w[i]), floats(7, 3, 2), torch.tensor([6, 0]))


def test_powers_of_tensors():
    def function(x, i):
        return 2.0**x, x.abs() ** x, torch.tensor(3.0) ** i

    check(_Function(function), floats(3, 4), torch.tensor([1, -2, 0], dtype=torch.int32))


INDEXING = {
    "gather_last": lambda x, i: x.gather(2, i % 4),
    "gather_middle": lambda x, i: x.gather(1, i % 3),
    "gather_first_of_few": lambda x, i: x.gather(0, i[:1, :2] % 2),
    "gather_broadcast": lambda x, i: x.gather(1, (i[:, :1, :1] % 3).expand(2, 1, 4)),
    "scatter": lambda x, i: x.scatter(2, i[..., :2] % 4, 7.0),
    "scatter_all": lambda x, i: torch.zeros_like(x).scatter_(-1, i % 4, 1),
    "last_of_dimension": lambda x, i: x[:, :, [-1]],
    "vector": lambda x, i: x[:, i[0, 0] % 3],
    "select_columns": lambda x, i: x.index_select(-1, i[0, 0] % 4),
    "of_the_same_everywhere": lambda x, i: torch.ones(5, 6).to(torch.bool)[i % 5, i % 6],
    "cumsum_of_ones": lambda x, i: (torch.ones(2, 5, dtype=torch.long).cumsum(1) - 1) * i[0, 0, 0],
    "concat": lambda x, i: torch.concat([x, torch.multiply(x, x)], dim=1),
}


def test_indexing():
    x = floats(2, 3, 4)
    check_all(INDEXING, x, torch.randint(0, 60, (2, 3, 4)))


@pytest.mark.parametrize("mask", [None, torch.bool, torch.float32])
def test_attention_with_values_of_another_size(mask):
    def function(q, k, v):
        seen = torch.arange(5) <= torch.arange(5)[:, None]
        given = None if mask is None else seen if mask == torch.bool else seen * 3.0
        return F.scaled_dot_product_attention(q, k, v, given)

    q, k = floats(1, 4, 5, 8), floats(1, 4, 5, 8, seed=1)
    check(_Function(function), q, k, floats(1, 4, 5, 6, seed=2), tolerance=1e-5)


@pytest.mark.parametrize("form", ["plain", "causal", "bool", "float", "grouped"])
def test_scaled_dot_product_attention(form):
    def function(q, k, v):
        scores = q.shape[2], k.shape[2]
        match form:
            case "causal":
                return F.scaled_dot_product_attention(q, k, v, is_causal=True)
            case "bool":
                mask = torch.arange(scores[1]) <= torch.arange(scores[0])[:, None] + 1
                return F.scaled_dot_product_attention(q, k, v, mask)
            case "float":
                mask = torch.arange(scores[1]) * -0.5 + torch.zeros(scores[0], 1)
                return F.scaled_dot_product_attention(q, k, v, mask, scale=0.3)
            case "grouped":
                return F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], enable_gqa=True)
            case _:
                return F.scaled_dot_product_attention(q, k, v)

    check(
        _Function(function),
        floats(1, 4, 5, 8),
        floats(1, 4, 5, 8, seed=1),
        floats(1, 4, 5, 8, seed=2),
        tolerance=1e-5,
    )


class _Counter(nn.Module):
    """Writes to buffers in the ways that models do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(3))
        self.register_buffer("cache", torch.zeros(1, 2, 8, 4))
        self.register_buffer("rows", torch.zeros(4, 3))

    def forward(self, x, position):
        self.total += x
        self.rows[1] = x
        self.cache[:, :, position] = x[0].expand(1, 2, 1, 4)
        return self.total * 2, self.cache.sum(), self.rows.clone()


def test_buffers_that_a_model_writes_are_states():
    x, position = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([5])
    program = torch.export.export(_Counter(), (x, position), strict=False)
    module = import_program(program)
    states, model = initial_states(module), _Counter()
    for _ in range(3):
        outputs = run_step(module, {}, states, {"x": x.numpy(), "position": position.numpy()}, 0)
        for i, expected in enumerate(model(x, position)):
            np.testing.assert_allclose(outputs[f"output{i}"], expected.numpy())
    for name in ("total", "cache", "rows"):
        np.testing.assert_array_equal(states[name], getattr(model, name).numpy())
