"""Memory of a program: aligned, initialised, shared where it can be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mpkir.errors import MpkirError
from mpkir.runtime.buffers import ALIGNMENT, TORCH_DTYPES, allocate, bind, dtype_name, packed
from mpkir.runtime.manifest import DTYPE_BYTES, Buffer, Part

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


JOINED = Buffer(
    "qk", "weight", "float32", (24, 64), parts=(Part("q.weight", 16), Part("k.weight", 8))
)


def test_parts_are_joined_row_after_row():
    tensors = {"k.weight": torch.randn(8, 64), "q.weight": torch.randn(64, 16).t()}
    whole = torch.cat([tensors["q.weight"], tensors["k.weight"]])
    bound = bind(JOINED, tensors, CPU)
    assert torch.equal(bound, whole)
    assert bound.data_ptr() % ALIGNMENT == 0
    tensors["k.weight"].zero_()
    assert torch.equal(bound, whole), "a copy"
    bias = Buffer("b", "weight", "float32", (5,), parts=(Part("q.bias", 2), Part("k.bias", 3)))
    pieces = {"q.bias": torch.tensor([1.0, 2]), "k.bias": torch.tensor([3.0, 4, 5])}
    assert bind(bias, pieces, CPU).tolist() == [1, 2, 3, 4, 5]


def test_joined_parts_may_be_packed():
    tensors = {"k.weight": torch.randn(8, 64), "q.weight": torch.randn(16, 64)}
    whole = torch.cat([tensors["q.weight"], tensors["k.weight"]])
    assert torch.equal(bind(replace(JOINED, packed=True), tensors, CPU), packed(whole))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, "weight 'k.weight' is missing among 1 tensors"),
        (9, "weight 'k.weight' is float32[9, 64], the program was compiled for float32[8, 64]"),
    ],
)
def test_parts_that_misfit(rows: int | None, message: str):
    tensors = {"q.weight": torch.randn(16, 64)}
    if rows is not None:
        tensors["k.weight"] = torch.randn(rows, 64)
    with pytest.raises(MpkirError) as caught:
        bind(JOINED, tensors, CPU)
    assert message in str(caught.value)


def test_where_elements_of_a_packed_matrix_lie():
    """Blocks of 8 rows by 32 columns, row after row; of 8 neighbours the pairs 0, 2, 1 and 3."""
    rows, columns = 16, 96
    flat = packed(torch.arange(rows * columns).view(rows, columns)).flatten().tolist()
    for place, element in enumerate(flat):
        row, column = divmod(element, columns)
        block = row // 8 * (columns // 32) + column // 32
        among = [0, 1, 4, 5, 2, 3, 6, 7][column % 8]
        assert place == block * 256 + row % 8 * 32 + column % 32 // 8 * 8 + among
