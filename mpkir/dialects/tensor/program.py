"""What a step program is made of: weights, states, inputs, outputs, run-time scalars.

A program is one `func.func` without arguments; names tie its values to the outside world, so that a
large model has no argument list of hundreds of entries.
"""

from __future__ import annotations

from typing import cast

from xdsl.dialects.builtin import I64, IntegerAttr, StringAttr, TensorType, i64
from xdsl.ir import Attribute, Operation, SSAValue, TypedAttribute
from xdsl.irdl import (
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.traits import IsTerminator, MemoryWriteEffect, Pure
from xdsl.utils.exceptions import VerifyException

from mpkir.dialects.parts import PartsAttr
from mpkir.dialects.shards import ShardAttr

TENSOR = TensorType.constr()


def tensor_type_of(value: SSAValue) -> TensorType[Attribute]:
    """The type of a value that is known to be a ranked tensor."""
    assert isinstance(value.type, TensorType)
    return cast(TensorType[Attribute], value.type)


def shape_of(value: SSAValue) -> tuple[int, ...]:
    """The static shape of a ranked tensor value."""
    return tensor_type_of(value).get_shape()


def element_type_of(value: SSAValue) -> Attribute:
    """The element type of a ranked tensor value."""
    return tensor_type_of(value).get_element_type()


class _NamedSource(IRDLOperation):
    """A value that comes from outside under a name."""

    sym = prop_def(StringAttr, prop_name="name")
    result = result_def(TENSOR)

    assembly_format = "$name attr-dict `:` type($result)"

    def __init__(self, name: str, type: Attribute):
        super().__init__(properties={"name": StringAttr(name)}, result_types=[type])


def _verify_shard(op: Operation, shard: ShardAttr | None, value: SSAValue) -> None:
    """Check that a state or output, a rank's shard, can be what it says."""
    if shard is not None:
        shard.check(op, shape_of(value), op.name)
        if shard.pieces:
            raise VerifyException(f"only a weight is a shard in pieces, not {op.name}")


@irdl_op_definition
class WeightOp(_NamedSource):
    """A constant of the model, bound by name when a program is loaded; never written.

    With `parts`, several of the model's tensors fill it, row after row; its own name is then only
    what to call it. With `shard`, it is a part of the model's tensor, another one on other ranks;
    where there are parts, each has its own.

    ```mlir
    %w = mpk_tensor.weight "model.embed_tokens.weight" : tensor<49152x576xbf16>
    %qk = mpk_tensor.weight "qk" parts <"q.weight" : 64, "k.weight" : 16> : tensor<80x64xbf16>
    %o = mpk_tensor.weight "o.weight" shard <dim 1 of 4> : tensor<4096x1024xbf16>
    ```
    """

    name = "mpk_tensor.weight"

    parts = opt_prop_def(PartsAttr)
    shard = opt_prop_def(ShardAttr)

    traits = traits_def(Pure())

    assembly_format = "$name (`parts` $parts^)? (`shard` $shard^)? attr-dict `:` type($result)"

    def __init__(
        self,
        name: str,
        type: Attribute,
        parts: PartsAttr | None = None,
        shard: ShardAttr | None = None,
    ):
        super().__init__(name, type)
        if parts is not None:
            self.parts = parts
        if shard is not None:
            self.shard = shard

    def verify_(self) -> None:
        if self.parts is not None:
            self.parts.check_fills(shape_of(self.result))
            if self.shard is not None:
                raise VerifyException("of a joined weight, each part has its own shard")
            others = shape_of(self.result)[1:]
            for (_, rows), part in zip(self.parts.items, self.parts.shards, strict=True):
                if part is not None:
                    part.check(self, (rows, *others), self.name)
        if self.shard is not None:
            self.shard.check(self, shape_of(self.result), self.name)


@irdl_op_definition
class InputOp(_NamedSource):
    """An input of the step, written by the host before each launch.

    It stays even where nothing reads it: whoever calls the program passes it.
    """

    name = "mpk_tensor.input"


@irdl_op_definition
class StateOp(IRDLOperation):
    """The value that a state (a KV cache, the token sequence) has when the step begins.

    `initial` fills the state before the first step. With `shard`, each rank keeps its own part.
    """

    name = "mpk_tensor.state"

    sym = prop_def(StringAttr, prop_name="name")
    initial = prop_def(IntegerAttr[I64], default_value=IntegerAttr(0, i64))
    shard = opt_prop_def(ShardAttr)
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = "$name (`initial` $initial^)? (`shard` $shard^)? attr-dict `:` type($result)"

    def __init__(self, name: str, type: Attribute, initial: int = 0):
        super().__init__(
            properties={"name": StringAttr(name), "initial": IntegerAttr(initial, i64)},
            result_types=[type],
        )

    def verify_(self) -> None:
        _verify_shard(self, self.shard, self.result)


class _NamedSink(IRDLOperation):
    """Hands a value to the outside under a name."""

    sym = prop_def(StringAttr, prop_name="name")
    value = operand_def(TENSOR)

    traits = traits_def(MemoryWriteEffect())

    assembly_format = "$name `,` $value attr-dict `:` type($value)"

    def __init__(self, name: str, value: SSAValue):
        super().__init__(operands=[value], properties={"name": StringAttr(name)})


@irdl_op_definition
class StoreStateOp(_NamedSink):
    """The value that a state has when the step ends; at most once for each state.

    ```mlir
    mpk_tensor.store_state "k0", %k1 : tensor<1x3x512x64xbf16>
    ```
    """

    name = "mpk_tensor.store_state"


@irdl_op_definition
class OutputOp(_NamedSink):
    """A result of the step, readable by the host after each launch. With `shard`, each rank has a
    part of what the host reads."""

    name = "mpk_tensor.output"

    shard = opt_prop_def(ShardAttr)

    assembly_format = "$name `,` $value (`shard` $shard^)? attr-dict `:` type($value)"

    def verify_(self) -> None:
        _verify_shard(self, self.shard, self.value)


@irdl_op_definition
class PositionOp(IRDLOperation):
    """Indices of the step's T tokens in the sequence: p, p + 1, ..; p advances by T a step."""

    name = "mpk_tensor.position"

    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = "attr-dict `:` type($result)"

    def __init__(self, tokens: int = 1):
        super().__init__(result_types=[TensorType(i64, [tokens])])

    def verify_(self) -> None:
        if len(shape_of(self.result)) != 1 or element_type_of(self.result) != i64:
            raise VerifyException(f"position is tensor<Txi64>, got {self.result.type}")


@irdl_op_definition
class YieldOp(IRDLOperation):
    """Ends a region of a tensor operator and gives its values."""

    name = "mpk_tensor.yield"

    arguments = var_operand_def()

    traits = traits_def(IsTerminator(), Pure())

    assembly_format = "($arguments^ `:` type($arguments))? attr-dict"

    def __init__(self, *arguments: SSAValue):
        super().__init__(operands=[arguments])


@irdl_op_definition
class IotaOp(IRDLOperation):
    """`result[i] = start + i * step`, rank 1, i64 or f32."""

    name = "mpk_tensor.iota"

    start = prop_def(IntegerAttr[I64], default_value=IntegerAttr(0, i64))
    step = prop_def(IntegerAttr[I64], default_value=IntegerAttr(1, i64))
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = "(`start` $start^)? (`step` $step^)? attr-dict `:` type($result)"

    def __init__(self, type: Attribute, start: int = 0, step: int = 1):
        super().__init__(
            properties={"start": IntegerAttr(start, i64), "step": IntegerAttr(step, i64)},
            result_types=[type],
        )

    def verify_(self) -> None:
        if len(shape_of(self.result)) != 1:
            raise VerifyException(f"iota has rank 1, got {self.result.type}")


@irdl_op_definition
class FullOp(IRDLOperation):
    """A tensor with one value everywhere (a literal of the model's source)."""

    name = "mpk_tensor.full"

    value = prop_def()
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = "$value attr-dict `:` type($result)"

    def __init__(self, value: Attribute, type: Attribute):
        super().__init__(properties={"value": value}, result_types=[type])

    def verify_(self) -> None:
        value, element_type = self.value, element_type_of(self.result)
        if not isinstance(value, TypedAttribute) or value.get_type() != element_type:
            raise VerifyException(f"{value} everywhere does not give {self.result.type}")


OPS = (
    WeightOp,
    InputOp,
    StateOp,
    StoreStateOp,
    OutputOp,
    PositionOp,
    YieldOp,
    IotaOp,
    FullOp,
)
__all__ = [
    "OPS",
    "FullOp",
    "InputOp",
    "IotaOp",
    "OutputOp",
    "PositionOp",
    "StateOp",
    "StoreStateOp",
    "WeightOp",
    "YieldOp",
    "element_type_of",
    "shape_of",
    "tensor_type_of",
]
