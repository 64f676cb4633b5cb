"""Memory of a program: aligned, initialised, shared where it can be."""

from __future__ import annotations

import pytest
import torch

from mpkir.errors import MpkirError
from mpkir.runtime.buffers import ALIGNMENT, TORCH_DTYPES, allocate, bind, dtype_name
from mpkir.runtime.manifest import DTYPE_BYTES, Buffer

CPU = torch.device("cpu")
WEIGHT = Buffer("w", "weight", "bfloat16", (16, 8), source="layer.weight")


def test_dtypes_agree_with_the_manifest():
    assert {name: dtype.itemsize for name, dtype in TORCH_DTYPES.items()} == DTYPE_BYTES
    assert all(dtype_name(dtype) == name for name, dtype in TORCH_DTYPES.items())
    with pytest.raises(MpkirError, match="complex64 is no element type of a buffer"):
        dtype_name(torch.complex64)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (5, 7)])
@pytest.mark.parametrize("dtype", list(TORCH_DTYPES))
def test_allocated(dtype: str, shape: tuple[int, ...]):
    tensor = allocate(Buffer("b", "state", dtype, shape, initial=1), CPU)
    assert tensor.data_ptr() % ALIGNMENT == 0 or tensor.numel() == 0
    assert (tuple(tensor.shape), tensor.dtype) == (shape, TORCH_DTYPES[dtype])
    assert tensor.is_contiguous()
    assert torch.all(tensor == 1)


def test_an_aligned_weight_is_not_copied():
    weight = torch.nn.Parameter(torch.randn(16, 8, dtype=torch.bfloat16))
    bound = bind(WEIGHT, {"layer.weight": weight}, CPU)
    assert bound.data_ptr() == weight.data_ptr()
    assert not bound.requires_grad


def test_other_weights_are_copied_right():
    memory = torch.randn(8 * 17 + 1, dtype=torch.bfloat16)
    shifted = memory[1:129].view(16, 8)
    turned = memory[:128].view(8, 16).t()
    for weight in (shifted, turned):
        bound = bind(WEIGHT, {"layer.weight": weight}, CPU)
        assert torch.equal(bound, weight)
        assert bound.is_contiguous()
        assert bound.data_ptr() % 64 == 0


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "weight 'layer.weight' is missing among 0 tensors"),
        (
            {"layer.weight": torch.zeros(8, 16, dtype=torch.bfloat16)},
            "is bfloat16[8, 16], the program was compiled for bfloat16[16, 8]",
        ),
        (
            {"layer.weight": torch.zeros(16, 8)},
            "weight 'layer.weight' is float32[16, 8], the program was compiled for bfloat16[16, 8]",
        ),
    ],
)
def test_misfits(tensors: dict[str, torch.Tensor], message: str):
    with pytest.raises(MpkirError) as caught:
        bind(WEIGHT, tensors, CPU)
    assert message in str(caught.value)
