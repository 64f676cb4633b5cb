"""Operators along the last dimension or a set of dimensions: norms, softmax, reductions."""

from __future__ import annotations

from collections.abc import Sequence
from enum import auto

from xdsl.dialects.builtin import DenseArrayBase, Float64Type, FloatAttr, TensorType, f64, i64
from xdsl.dialects.utils import EnumAttribute
from xdsl.interfaces import HasCanonicalizationPatternsInterface
from xdsl.ir import Attribute, SpacedOpaqueSyntaxAttribute, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.pattern_rewriter import RewritePattern
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.str_enum import StrEnum

from mpkir.dialects.tensor.program import TENSOR, element_type_of, shape_of


def _verify_last_dimension(op: IRDLOperation, x: SSAValue, *parameters: SSAValue | None) -> None:
    for parameter in parameters:
        if parameter is not None and shape_of(parameter) != shape_of(x)[-1:]:
            raise VerifyException(
                f"{op.name} of {x.type} needs parameters of {shape_of(x)[-1]} elements, "
                f"got {parameter.type}"
            )
    if shape_of(op.results[0]) != shape_of(x):
        raise VerifyException(f"{op.name} keeps the shape of {x.type}, got {op.results[0].type}")


@irdl_op_definition
class RmsNormOp(IRDLOperation):
    """`y = x / sqrt(mean(x^2) + eps) * weight` along the last dimension, in fp32.

    x: [.., H]; weight: [H] or none (1). Gemma's `1 + weight` is an elementwise op on the weight.
    """

    name = "mpk_tensor.rms_norm"

    x = operand_def(TENSOR)
    weight = opt_operand_def(TENSOR)
    eps = prop_def(FloatAttr[Float64Type])
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = (
        "$x (`,` $weight^)? `eps` $eps attr-dict `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        x: SSAValue,
        weight: SSAValue | None,
        eps: float,
        element_type: Attribute | None = None,
    ):
        super().__init__(
            operands=[x, weight],
            properties={"eps": FloatAttr(eps, f64)},
            result_types=[TensorType(element_type or element_type_of(x), shape_of(x))],
        )

    def verify_(self) -> None:
        _verify_last_dimension(self, self.x, self.weight)


@irdl_op_definition
class LayerNormOp(IRDLOperation):
    """`y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias` along the last dimension, in fp32.

    x: [.., H]; weight, bias: [H].
    """

    name = "mpk_tensor.layer_norm"

    x = operand_def(TENSOR)
    weight = operand_def(TENSOR)
    bias = operand_def(TENSOR)
    eps = prop_def(FloatAttr[Float64Type])
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = (
        "$x `,` $weight `,` $bias `eps` $eps attr-dict `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        x: SSAValue,
        weight: SSAValue,
        bias: SSAValue,
        eps: float,
        element_type: Attribute | None = None,
    ):
        super().__init__(
            operands=[x, weight, bias],
            properties={"eps": FloatAttr(eps, f64)},
            result_types=[TensorType(element_type or element_type_of(x), shape_of(x))],
        )

    def verify_(self) -> None:
        _verify_last_dimension(self, self.x, self.weight, self.bias)


@irdl_op_definition
class SoftmaxOp(IRDLOperation):
    """`exp(x - max(x)) / sum(exp(x - max(x)))` along the last dimension, in fp32."""

    name = "mpk_tensor.softmax"

    x = operand_def(TENSOR)
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = "$x attr-dict `:` type($x) `to` type($result)"

    def __init__(self, x: SSAValue, element_type: Attribute | None = None):
        super().__init__(
            operands=[x],
            result_types=[TensorType(element_type or element_type_of(x), shape_of(x))],
        )

    def verify_(self) -> None:
        _verify_last_dimension(self, self.x)


class ReductionKind(StrEnum):
    """What a reduction computes of the elements it joins."""

    SUM = auto()
    MEAN = auto()
    MAX = auto()
    MIN = auto()


@irdl_attr_definition
class ReductionKindAttr(EnumAttribute[ReductionKind], SpacedOpaqueSyntaxAttribute):
    name = "mpk_tensor.reduction"


@irdl_op_definition
class ReduceOp(IRDLOperation, HasCanonicalizationPatternsInterface):
    """Joins the elements along `dims` (ascending); the result keeps them with size 1. Accumulates
    in fp32.
    """

    name = "mpk_tensor.reduce"

    kind = prop_def(ReductionKindAttr)
    x = operand_def(TENSOR)
    dims = prop_def(DenseArrayBase.constr(i64))
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = "$kind $x `dims` $dims attr-dict `:` type($x) `to` type($result)"

    def __init__(self, kind: ReductionKind, x: SSAValue, dims: Sequence[int]):
        shape = [1 if d in dims else size for d, size in enumerate(shape_of(x))]
        super().__init__(
            operands=[x],
            properties={
                "kind": ReductionKindAttr(kind),
                "dims": DenseArrayBase.from_list(i64, sorted(dims)),
            },
            result_types=[TensorType(element_type_of(x), shape)],
        )

    @classmethod
    def get_canonicalization_patterns(cls) -> tuple[RewritePattern, ...]:
        from mpkir.dialects.canonicalization import norms

        return norms.REDUCE

    def verify_(self) -> None:
        dims = self.dims.get_values()
        shape = shape_of(self.x)
        if any(not 0 <= d < len(shape) for d in dims) or list(dims) != sorted(set(dims)):
            raise VerifyException(f"reduce along {dims} of {self.x.type}")
        if shape_of(self.result) != tuple(1 if d in dims else s for d, s in enumerate(shape)):
            raise VerifyException(
                f"reduce keeps reduced dimensions with size 1, got {self.result.type}"
            )


OPS = (RmsNormOp, LayerNormOp, SoftmaxOp, ReduceOp)
__all__ = [
    "OPS",
    "LayerNormOp",
    "ReduceOp",
    "ReductionKind",
    "ReductionKindAttr",
    "RmsNormOp",
    "SoftmaxOp",
]
