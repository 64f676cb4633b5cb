"""What the importer says and keeps: names, source lines, clear errors."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn
from xdsl.dialects.builtin import FileLineColLoc, NameLoc

from mpkir.dialects import tensor
from mpkir.errors import MpkirError
from mpkir.frontend import decode_step, import_program, model_from_config, register_lowering
from mpkir.frontend.aten import LOWERINGS


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return torch.cumprod(x * self.weight, dim=-1)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x):
        return self.inner(x) + 1


CUMPROD_LINE = inspect.getsourcelines(Inner.forward)[1] + 1


def exported(module: nn.Module, *args: torch.Tensor, **options) -> torch.export.ExportedProgram:
    return torch.export.export(module, args, strict=False, **options)


def test_an_unsupported_operator_is_named_with_shapes_line_and_way_out():
    with pytest.raises(MpkirError) as caught:
        import_program(exported(Outer(), torch.ones(2, 4)))
    message = str(caught.value)
    assert "\n" not in message
    assert f"test_torch_export.py:{CUMPROD_LINE} (inner): " in message
    assert "aten.cumprod.default(float32[2, 4]) has no lowering" in message
    assert "@mpkir.frontend.register_lowering(torch.ops.aten.cumprod.default)" in message


def test_a_registered_lowering_is_used():
    overload = torch.ops.aten.cumprod.default

    @register_lowering(overload)
    def cumprod(low, x, dim):
        return low.pointwise([x], lambda scalars, a: scalars.add(a, a))

    try:
        module = import_program(exported(Outer(), torch.ones(2, 4)))
    finally:
        del LOWERINGS[overload]
    module.verify()
    product, doubled, _ = (op for op in module.walk() if isinstance(op, tensor.ElementwiseOp))
    assert doubled.operands[0] is product.result


def test_operators_keep_module_path_and_source_line():
    class Doubled(Inner):
        def forward(self, x):
            return x * self.weight

    outer = Outer()
    outer.inner = Doubled()
    module = import_program(exported(outer, torch.ones(2, 4)))
    product, total = (op for op in module.walk() if isinstance(op, tensor.ElementwiseOp))
    location = product.location
    assert isinstance(location, NameLoc)
    assert location.desc.data == "inner"
    line = location.location
    assert isinstance(line, FileLineColLoc)
    assert line.filename.data == __file__
    assert line.line.data == inspect.getsourcelines(Doubled.forward)[1] + 1
    assert isinstance(total.location, FileLineColLoc)


def test_names_below_a_submodule_are_relative():
    outer = Outer()
    outer.inner.forward = lambda x: x * outer.inner.weight  # type: ignore[method-assign]
    module = import_program(exported(outer, torch.ones(2, 4)), below="inner")
    (weight,) = (op for op in module.walk() if isinstance(op, tensor.WeightOp))
    assert weight.sym.data == "weight"


def test_dynamic_shapes_are_refused_with_the_input_named():
    class Double(nn.Module):
        def forward(self, x):
            return x * 2

    program = exported(
        Double(), torch.ones(3, 4), dynamic_shapes={"x": {0: torch.export.Dim("rows")}}
    )
    with pytest.raises(MpkirError, match=r"input 'x' has the dynamic size \S+ in dimension 0"):
        import_program(program)
    with pytest.raises(MpkirError, match="shapes must be static: export without dynamic_shapes"):
        import_program(program)


def test_element_types_without_operators_are_refused():
    class Double(nn.Module):
        def forward(self, x):
            return x * 2

    with pytest.raises(MpkirError, match=r"input 'x' has the element type torch\.complex64"):
        import_program(exported(Double(), torch.ones(3, dtype=torch.complex64)))


def test_dropout_in_training_is_refused():
    module = nn.Dropout(0.5).train()
    with pytest.raises(MpkirError, match=r"export the model in eval\(\) mode"):
        import_program(exported(module, torch.ones(3)))


def test_cache_capacity_is_rounded_up(make_config):
    module = decode_step(model_from_config(make_config("llama")), 50)
    states = {op.sym.data: op for op in module.walk() if isinstance(op, tensor.StateOp)}
    assert set(states) == {"tokens", "k0", "v0", "k1", "v1"}
    assert tensor.shape_of(states["k0"].result) == (1, 2, 64, 16)
    assert tensor.shape_of(states["tokens"].result) == (65,)
    assert states["tokens"].initial.value.data == -1


def test_impossible_steps_are_refused(make_config):
    model = model_from_config(make_config("llama"))
    with pytest.raises(MpkirError, match="a step of 9 tokens with capacity 8"):
        decode_step(model, 8, tokens=9)


def test_a_model_without_key_value_cache_is_refused():
    transformers = pytest.importorskip("transformers")
    config = transformers.MambaConfig(
        hidden_size=32, num_hidden_layers=1, vocab_size=64, state_size=4
    )
    with pytest.raises(MpkirError, match="mamba"):
        decode_step(model_from_config(config), 32)


class Literals(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, [-1, 0]]


def test_a_constant_without_a_value_is_refused():
    program = exported(Literals(), torch.zeros(2, 4, device="meta"))
    with pytest.raises(MpkirError, match="has no value"):
        import_program(program)
