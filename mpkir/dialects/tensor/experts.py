"""Mixtures of experts: a router's choice, and products of weights chosen at run time."""

from __future__ import annotations

from collections.abc import Sequence
from enum import auto
from math import prod
from typing import ClassVar

from xdsl.dialects.builtin import DenseArrayBase, TensorType, i64
from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import Attribute, Region, SpacedOpaqueSyntaxAttribute, SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    AttrSizedRegionSegments,
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_region_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.str_enum import StrEnum

from mpkir.dialects.tensor.products import verify_fused_regions
from mpkir.dialects.tensor.program import TENSOR, element_type_of, shape_of


class Scores(StrEnum):
    """What `topk` says of the elements it chose.

    raw: the elements; softmax: their softmax over the whole row; softmax_of_chosen: their softmax
    among themselves, which is what dividing the former by its sum gives.
    """

    RAW = auto()
    SOFTMAX = auto()
    SOFTMAX_OF_CHOSEN = auto()


@irdl_attr_definition
class ScoresAttr(EnumAttribute[Scores], SpacedOpaqueSyntaxAttribute):
    name = "mpk_tensor.scores"


@irdl_op_definition
class TopkOp(IRDLOperation):
    """The k largest elements along the last dimension in descending order, and where they are.

    x: [.., E]; values: [.., k]; indices: i64 [.., k]. Of equal elements the one with the lower
    index comes first (PyTorch promises no order); a NaN counts as infinity.

    ```mlir
    %p, %e = mpk_tensor.topk softmax %x : tensor<1x128xbf16> to tensor<1x8xf32>, tensor<1x8xi64>
    ```
    """

    name = "mpk_tensor.topk"

    scores = prop_def(ScoresAttr)
    x = operand_def(TENSOR)
    values = result_def(TENSOR)
    indices = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = "$scores $x attr-dict `:` type($x) `to` type($values) `,` type($indices)"

    def __init__(
        self,
        x: SSAValue,
        k: int,
        element_type: Attribute | None = None,
        scores: Scores = Scores.RAW,
    ):
        shape = [*shape_of(x)[:-1], k]
        super().__init__(
            operands=[x],
            properties={"scores": ScoresAttr(scores)},
            result_types=[
                TensorType(element_type or element_type_of(x), shape),
                TensorType(i64, shape),
            ],
        )

    @property
    def k(self) -> int:
        """How many elements of a row are chosen."""
        return shape_of(self.values)[-1]

    def verify_(self) -> None:
        *rows, size = shape_of(self.x)
        if self.indices.type != TensorType(i64, shape_of(self.values)):
            raise VerifyException(f"topk gives indices like its values, got {self.indices.type}")
        if list(shape_of(self.values)[:-1]) != rows or not 1 <= self.k <= size:
            raise VerifyException(f"topk of {self.x.type} does not give {self.values.type}")


@irdl_op_definition
class ExpertLinearOp(IRDLOperation):
    """A linear whose weights are chosen at run time, one matrix of a stack for each *slot*.

    experts: i64 [S], slot s uses expert experts[s]; each weight: [E, M, K] with M >= first_rows[j]
    + N, of which the rows from first_rows[j] on count. An expert outside the stack is the caller's
    error; backends clamp it.

    Without scales, x: [.., K] has R rows, of which each serves S / R neighbouring slots, and the
    result [.., N] has S rows:
    `acc_j[s, n] = sum_k prologue(x)[s div (S / R), k] * w_j[experts[s], first_rows[j] + n, k]`.
    With scales: [S], x has S rows and the result's R rows each sum up S / R neighbouring slots:
    `acc_j[r, n] = sum_{s of r} scales[s] * sum_k prologue(x)[s, k] * w_j[experts[s], .., k]`.

    Accumulators are f32; prologue and epilogue are those of `linear`. Only the chosen experts'
    rows are read.

    ```mlir
    %h = mpk_tensor.expert_linear %x, [%w, %w] rows [0, 768] of %e epilogue {
    ^bb0(%gate : f32, %up : f32): ...
    } : tensor<1x2048xbf16>, [tensor<128x1536x2048xbf16>, tensor<128x1536x2048xbf16>],
        tensor<8xi64> to tensor<8x768xbf16>
    ```
    """

    name = "mpk_tensor.expert_linear"
    NOTATION: ClassVar[str] = "y[s, n] += x[s, k] * w[experts[s], n, k]"

    x = operand_def(TENSOR)
    weights = var_operand_def(TENSOR)
    experts = operand_def(TENSOR)
    scales = opt_operand_def(TENSOR)
    prologue_args = var_operand_def(TENSOR)
    epilogue_args = var_operand_def(TENSOR)
    first_rows = prop_def(DenseArrayBase.constr(i64))
    prologue = opt_region_def("single_block")
    epilogue = opt_region_def("single_block")
    result = result_def(TENSOR)

    irdl_options = (
        AttrSizedOperandSegments(as_property=True),
        AttrSizedRegionSegments(as_property=True),
    )
    traits = traits_def(Pure())

    assembly_format = (
        "$x `,` `[` $weights `]` `rows` $first_rows `of` $experts "
        "(`scaled` $scales^ `:` type($scales))? "
        "(`prologue` $prologue^)? (`with` $prologue_args^ `:` type($prologue_args))? "
        "(`epilogue` $epilogue^)? (`with` $epilogue_args^ `:` type($epilogue_args))? "
        "attr-dict `:` type($x) `,` `[` type($weights) `]` `,` type($experts) `to` type($result)"
    )

    def __init__(
        self,
        x: SSAValue,
        weights: Sequence[SSAValue],
        first_rows: Sequence[int],
        experts: SSAValue,
        result: Attribute,
        *,
        scales: SSAValue | None = None,
        prologue: Region | None = None,
        prologue_args: Sequence[SSAValue] = (),
        epilogue: Region | None = None,
        epilogue_args: Sequence[SSAValue] = (),
    ):
        super().__init__(
            operands=[x, weights, experts, scales, prologue_args, epilogue_args],
            properties={"first_rows": DenseArrayBase.from_list(i64, list(first_rows))},
            regions=[
                [] if prologue is None else [prologue],
                [] if epilogue is None else [epilogue],
            ],
            result_types=[result],
        )

    @property
    def firsts(self) -> tuple[int, ...]:
        """Where each weight's rows begin in its matrices."""
        return tuple(int(first) for first in self.first_rows.get_values())

    @property
    def slots(self) -> int:
        """S: how many matrices of each weight are chosen."""
        return shape_of(self.experts)[0]

    @property
    def rows(self) -> int:
        """R: rows of x, or of the result where slots are summed up."""
        return prod(shape_of(self.x if self.scales is None else self.result)[:-1])

    def verify_(self) -> None:
        weights = self.weights
        if not weights or len(self.firsts) != len(weights):
            raise VerifyException("expert_linear needs weights, and a first row of each")
        n, k = shape_of(self.result)[-1], shape_of(self.x)[-1]
        for weight, first in zip(weights, self.firsts, strict=True):
            shape = shape_of(weight)
            if len(shape) != 3 or shape[0] != shape_of(weights[0])[0] or shape[2] != k:
                raise VerifyException(
                    f"expert_linear of {self.x.type} needs weights [experts, rows, {k}], "
                    f"got {weight.type}"
                )
            if not 0 <= first <= shape[1] - n:
                raise VerifyException(f"rows {first} to {first + n} leave {weight.type}")
        if len(shape_of(self.experts)) != 1 or element_type_of(self.experts) != i64:
            raise VerifyException(f"experts are tensor<Sxi64>, got {self.experts.type}")
        many, few = (prod(shape_of(v)[:-1]) for v in (self.result, self.x))
        if self.scales is not None:
            many, few = few, many
            if shape_of(self.scales) != shape_of(self.experts):
                raise VerifyException(f"{self.scales.type} does not scale {self.slots} slots")
        if many != self.slots or self.slots % few:
            raise VerifyException(
                f"{self.slots} slots do not lead from {self.x.type} to {self.result.type}"
            )
        verify_fused_regions(self)

    def like(
        self,
        x: SSAValue,
        element_type: Attribute,
        *,
        weights: Sequence[SSAValue] | None = None,
        first_rows: Sequence[int] | None = None,
        prologue: Region | None = None,
        prologue_args: Sequence[SSAValue] = (),
        epilogue: Region | None = None,
        epilogue_args: Sequence[SSAValue] = (),
    ) -> ExpertLinearOp:
        """The same product, by default of the same weights, with other things fused into it."""
        return ExpertLinearOp(
            x,
            self.weights if weights is None else weights,
            self.firsts if first_rows is None else first_rows,
            self.experts,
            TensorType(element_type, shape_of(self.result)),
            scales=self.scales,
            prologue=prologue,
            prologue_args=prologue_args,
            epilogue=epilogue,
            epilogue_args=epilogue_args,
        )


OPS = (TopkOp, ExpertLinearOp)
__all__ = ["OPS", "ExpertLinearOp", "Scores", "ScoresAttr", "TopkOp"]
