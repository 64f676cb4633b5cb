"""The table of lowerings, OpOverload -> function, and what a lowering is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch
from torch import fx
from xdsl.dialects.builtin import FloatAttr, IntegerAttr, LocationAttr, TensorType, i1
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from mpkir.dialects import tensor
from mpkir.errors import MpkirError
from mpkir.frontend.aten.scalars import TYPES, Scalars, arithmetic_type, number
from mpkir.registry import Registry

Value = SSAValue | tuple[SSAValue, ...]
LoweringFunction = Callable[..., Value]
Function = TypeVar("Function", bound=LoweringFunction)

LOWERINGS: Registry[Any, LoweringFunction] = Registry(
    "lowerings", "mpkir.frontend.aten.registry.LOWERINGS"
)
"""Functions that import ATen operators, by overload."""

HINTS: dict[Any, str] = {}
"""What a user can do about an operator without a lowering, other than to add one."""


def register_lowering(*overloads: Any) -> Callable[[Function], Function]:
    """Declare the function that imports ATen operators.

    The function is called with a `Lowering` and then the operator's arguments, tensors replaced by
    values of the IR; it emits operations and returns one value, or a tuple where the operator has
    several results.

    ```python
    @register_lowering(torch.ops.aten.relu.default)
    def relu(low, x):
        return low.pointwise([x], lambda s, a: s.maximum(a, s.constant(0.0, a.type)))
    ```
    """

    def declare(function: Function) -> Function:
        for overload in overloads:
            LOWERINGS[overload] = function
        return function

    return declare


def tensor_type(value: torch.Tensor, what: str) -> TensorType[Any]:
    """The IR's type of a (fake) tensor; MpkirError for symbolic shapes and types the IR lacks."""
    for dim, size in enumerate(value.shape):
        if not isinstance(size, int):
            raise MpkirError(
                f"{what} has the dynamic size {size} in dimension {dim}",
                hint="shapes must be static: export without dynamic_shapes, once for each size "
                "(a sequence's length belongs in a cache of fixed capacity)",
            )
    if value.dtype not in TYPES:
        raise MpkirError(
            f"{what} has the element type {value.dtype}, which no operator supports",
            hint=f"convert the model to one of {', '.join(map(str, TYPES))}",
        )
    return TensorType(TYPES[value.dtype], [int(size) for size in value.shape])


@dataclass(frozen=True)
class Lowering:
    """One ATen call that is being imported: where its operations go and what it must give."""

    node: fx.Node
    block: Block
    location: LocationAttr
    where: str | None

    def emit(self, op: Operation) -> SSAValue:
        """Append an operation and give its first result."""
        op.location = self.location
        self.block.add_op(op)
        return op.results[0]

    @property
    def type(self) -> TensorType[Any]:
        """The type that PyTorch gives the (first) result."""
        value = self.node.meta["val"]
        if isinstance(value, list | tuple):
            value = value[0]
        return tensor_type(value, f"the result of {self.node.target}")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.get_shape()

    @property
    def element(self) -> Attribute:
        return self.type.get_element_type()

    def fail(self, reason: str, hint: str | None = None) -> NoReturn:
        """Refuse this call."""
        raise MpkirError(f"{self.describe()} {reason}", where=self.where, hint=hint)

    def describe(self) -> str:
        """The operator with the shapes of its tensors."""
        shapes = [
            f"{value.dtype}{list(value.shape)}".removeprefix("torch.")
            for value in (arg.meta.get("val") for arg in self.node.all_input_nodes)
            if isinstance(value, torch.Tensor)
        ]
        return f"{self.node.target}({', '.join(shapes)})"

    def pointwise(
        self,
        inputs: Sequence[SSAValue | float],
        function: Callable[..., SSAValue],
        *,
        compute: Attribute | None = None,
        raw: bool = False,
    ) -> SSAValue:
        """An elementwise op to this call's type.

        `function(scalars, *values)` gets one value for each input, converted to `compute` (by
        default the type that PyTorch computes this result in; not converted if `raw`); its value is
        rounded to the result's type.
        """
        compute = compute or arithmetic_type(self.element)
        operands = list(dict.fromkeys(v for v in inputs if isinstance(v, SSAValue)))
        block = Block(arg_types=[tensor.element_type_of(v) for v in operands])
        scalars = Scalars(block)
        taken: dict[SSAValue, SSAValue] = {}
        values: list[SSAValue] = []
        for value in inputs:
            if not isinstance(value, SSAValue):
                values.append(scalars.constant(value, compute))
                continue
            if value not in taken:
                arg = block.args[operands.index(value)]
                taken[value] = arg if raw else scalars.convert(arg, compute)
            values.append(taken[value])
        result = scalars.convert(function(scalars, *values), self.element)
        block.add_op(tensor.YieldOp(result))
        return self.emit(tensor.ElementwiseOp(operands, Region(block), self.type))

    def convert(self, value: SSAValue, element: Attribute) -> SSAValue:
        """The tensor with another element type; itself if it has that type."""
        if tensor.element_type_of(value) == element:
            return value
        if isinstance(full := value.owner, tensor.FullOp):
            literal = full.value
            assert isinstance(literal, FloatAttr | IntegerAttr)
            known = bool(literal.value.data) if literal.type == i1 else literal.value.data
            type = TensorType(element, tensor.shape_of(value))
            return self.emit(tensor.FullOp(number(known, element), type))
        block = Block(arg_types=[tensor.element_type_of(value)])
        block.add_op(tensor.YieldOp(Scalars(block).convert(block.args[0], element)))
        type = TensorType(element, tensor.shape_of(value))
        return self.emit(tensor.ElementwiseOp([value], Region(block), type))

    def reshape(self, value: SSAValue, shape: Sequence[int]) -> SSAValue:
        """The tensor under another shape; itself if it has that shape."""
        if tensor.shape_of(value) == tuple(shape):
            return value
        return self.emit(tensor.ReshapeOp(value, shape))
