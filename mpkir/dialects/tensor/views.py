"""Views: the same elements under other indices. They cost nothing where a consumer can read through
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from xdsl.dialects.builtin import I64, DenseArrayBase, IntegerAttr, TensorType, i64
from xdsl.interfaces import HasCanonicalizationPatternsInterface
from xdsl.ir import SSAValue
from xdsl.irdl import (
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.pattern_rewriter import RewritePattern
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from mpkir.dialects.tensor.program import TENSOR, element_type_of, shape_of


class _OfAnotherShape(IRDLOperation):
    """A view that its shape says all of."""

    source = operand_def(TENSOR)
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = "$source attr-dict `:` type($source) `to` type($result)"

    def __init__(self, source: SSAValue, shape: Sequence[int]):
        super().__init__(
            operands=[source], result_types=[TensorType(element_type_of(source), shape)]
        )


@irdl_op_definition
class ReshapeOp(_OfAnotherShape, HasCanonicalizationPatternsInterface):
    """The same elements in row-major order under another shape (view, unsqueeze, flatten)."""

    name = "mpk_tensor.reshape"

    @classmethod
    def get_canonicalization_patterns(cls) -> tuple[RewritePattern, ...]:
        from mpkir.dialects.canonicalization import views

        return views.RESHAPE

    def verify_(self) -> None:
        if prod(shape_of(self.source)) != prod(shape_of(self.result)):
            raise VerifyException(
                f"reshape keeps the number of elements, "
                f"got {self.source.type} to {self.result.type}"
            )


@irdl_op_definition
class TransposeOp(IRDLOperation, HasCanonicalizationPatternsInterface):
    """`result` dimension d is `source` dimension permutation[d]."""

    name = "mpk_tensor.transpose"

    source = operand_def(TENSOR)
    permutation = prop_def(DenseArrayBase.constr(i64))
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = "$source $permutation attr-dict `:` type($source) `to` type($result)"

    def __init__(self, source: SSAValue, permutation: Sequence[int]):
        shape = shape_of(source)
        super().__init__(
            operands=[source],
            properties={"permutation": DenseArrayBase.from_list(i64, permutation)},
            result_types=[TensorType(element_type_of(source), [shape[p] for p in permutation])],
        )

    @classmethod
    def get_canonicalization_patterns(cls) -> tuple[RewritePattern, ...]:
        from mpkir.dialects.canonicalization import views

        return views.TRANSPOSE

    def verify_(self) -> None:
        permutation = self.permutation.get_values()
        shape = shape_of(self.source)
        if sorted(permutation) != list(range(len(shape))):
            raise VerifyException(f"{permutation} is no permutation of {len(shape)} dimensions")
        if tuple(shape[p] for p in permutation) != shape_of(self.result):
            raise VerifyException("shape of the result is not the permuted shape of the source")


@irdl_op_definition
class SliceOp(IRDLOperation, HasCanonicalizationPatternsInterface):
    """`result[.., i, ..] = source[.., start + i * step, ..]` along `dim`."""

    name = "mpk_tensor.slice"

    source = operand_def(TENSOR)
    dim = prop_def(IntegerAttr[I64])
    start = prop_def(IntegerAttr[I64])
    step = prop_def(IntegerAttr[I64], default_value=IntegerAttr(1, i64))
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = (
        "$source `dim` $dim `start` $start (`step` $step^)? attr-dict "
        "`:` type($source) `to` type($result)"
    )

    def __init__(self, source: SSAValue, dim: int, start: int, length: int, step: int = 1):
        shape = list(shape_of(source))
        shape[dim] = length
        super().__init__(
            operands=[source],
            properties={
                "dim": IntegerAttr(dim, i64),
                "start": IntegerAttr(start, i64),
                "step": IntegerAttr(step, i64),
            },
            result_types=[TensorType(element_type_of(source), shape)],
        )

    @classmethod
    def get_canonicalization_patterns(cls) -> tuple[RewritePattern, ...]:
        from mpkir.dialects.canonicalization import views

        return views.SLICE

    def verify_(self) -> None:
        shape, result = list(shape_of(self.source)), list(shape_of(self.result))
        dim = self.dim.value.data
        if not 0 <= dim < len(shape) or len(result) != len(shape):
            raise VerifyException(f"slice along dimension {dim} of {self.source.type}")
        last = self.start.value.data + (result[dim] - 1) * self.step.value.data
        if self.start.value.data < 0 or self.step.value.data < 1 or last >= shape[dim]:
            raise VerifyException(f"slice leaves its source: last index {last} of {shape[dim]}")
        if shape[:dim] + shape[dim + 1 :] != result[:dim] + result[dim + 1 :]:
            raise VerifyException("slice changes other dimensions than its own")


@irdl_op_definition
class BroadcastOp(_OfAnotherShape, HasCanonicalizationPatternsInterface):
    """NumPy's broadcast of `source` to a larger shape (expand)."""

    name = "mpk_tensor.broadcast"

    @classmethod
    def get_canonicalization_patterns(cls) -> tuple[RewritePattern, ...]:
        from mpkir.dialects.canonicalization import views

        return views.BROADCAST

    def verify_(self) -> None:
        source, result = shape_of(self.source), shape_of(self.result)
        tail = result[len(result) - len(source) :]
        if len(source) > len(result) or any(
            s not in (1, r) for s, r in zip(source, tail, strict=True)
        ):
            raise VerifyException(f"{self.source.type} does not broadcast to {self.result.type}")


@irdl_op_definition
class ConcatOp(IRDLOperation, HasCanonicalizationPatternsInterface):
    """Sources one after another along `dim`."""

    name = "mpk_tensor.concat"

    sources = var_operand_def(TENSOR)
    dim = prop_def(IntegerAttr[I64])
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = "$sources `dim` $dim attr-dict `:` functional-type(operands, results)"

    def __init__(self, sources: Sequence[SSAValue], dim: int):
        shape = list(shape_of(sources[0]))
        shape[dim] = sum(shape_of(s)[dim] for s in sources)
        super().__init__(
            operands=[sources],
            properties={"dim": IntegerAttr(dim, i64)},
            result_types=[TensorType(element_type_of(sources[0]), shape)],
        )

    @classmethod
    def get_canonicalization_patterns(cls) -> tuple[RewritePattern, ...]:
        from mpkir.dialects.canonicalization import views

        return views.CONCAT

    def verify_(self) -> None:
        if not self.sources:
            raise VerifyException("concat needs at least one source")
        dim = self.dim.value.data
        expected = list(shape_of(self.result))
        if not 0 <= dim < len(expected):
            raise VerifyException(f"concat along dimension {dim} of {self.result.type}")
        for source in self.sources:
            shape = list(shape_of(source))
            if shape[:dim] != expected[:dim] or shape[dim + 1 :] != expected[dim + 1 :]:
                raise VerifyException("concat changes other dimensions than its own")
        if sum(shape_of(s)[dim] for s in self.sources) != expected[dim]:
            raise VerifyException("sizes of the sources do not add up to the result")


OPS = (ReshapeOp, TransposeOp, SliceOp, BroadcastOp, ConcatOp)
__all__ = ["OPS", "BroadcastOp", "ConcatOp", "ReshapeOp", "SliceOp", "TransposeOp"]
