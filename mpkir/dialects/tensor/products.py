"""Products: linear layers with what is fused around them, batched matrix products, embedding look-
ups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from xdsl.dialects.builtin import (
    I64,
    BFloat16Type,
    Float16Type,
    IntegerAttr,
    TensorType,
    f32,
    i64,
)
from xdsl.ir import Attribute, Region, SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    AttrSizedRegionSegments,
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    opt_region_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from mpkir.dialects.tensor.pointwise import broadcast_shape, is_broadcast, verify_scalar_region
from mpkir.dialects.tensor.program import TENSOR, YieldOp, element_type_of, shape_of
from mpkir.dialects.tensor.tokens import sequences_in

if TYPE_CHECKING:
    from mpkir.dialects.tensor.experts import ExpertLinearOp


def verify_prologue(what: str, region: Region, source: SSAValue, extra: Sequence[SSAValue]) -> None:
    """Check a region of tensor ops that maps a tensor (and extra operands) to one of the same
    shape.
    """
    block = region.block
    if [arg.type for arg in block.args] != [source.type, *(v.type for v in extra)]:
        raise VerifyException(f"{what} takes the operand and its extra operands, types unchanged")
    last = block.last_op
    if not isinstance(last, YieldOp) or len(last.arguments) != 1:
        raise VerifyException(f"{what} must yield one tensor")
    if shape_of(last.arguments[0]) != shape_of(source):
        raise VerifyException(
            f"{what} must keep the shape {shape_of(source)}, yields {last.arguments[0].type}"
        )


def verify_epilogue(
    epilogue: Region, accumulators: int, extra: Sequence[SSAValue], result: SSAValue
) -> None:
    """Check a region of scalar arithmetic on f32 accumulators and extra operands, which broadcast
    to the result.
    """
    for value in extra:
        if not is_broadcast(shape_of(result), shape_of(value), shape_of(result)):
            raise VerifyException(f"{value.type} does not broadcast to {result.type}")
    verify_scalar_region(
        "epilogue",
        epilogue,
        [f32] * accumulators + [element_type_of(value) for value in extra],
        element_type_of(result),
    )


def verify_fused_regions(op: LinearOp | ExpertLinearOp) -> None:
    """Check prologue and epilogue of a product of weights."""
    if op.prologue is not None:
        verify_prologue("prologue", op.prologue, op.x, op.prologue_args)
    elif op.prologue_args:
        raise VerifyException("prologue operands without a prologue")
    if op.epilogue is not None:
        verify_epilogue(op.epilogue, len(op.weights), op.epilogue_args, op.result)
    elif len(op.weights) > 1 or op.epilogue_args:
        raise VerifyException("several weights or extra operands need an epilogue")


@irdl_op_definition
class LinearOp(IRDLOperation):
    """`acc_j[.., n] = sum_k prologue(x)[.., k] * weights[j][n, k]`, then `y = epilogue(acc_0,
    acc_1, .., extra)`.

    x: [.., K]; each weight: [N, K]; result: [.., N]. Products accumulate in fp32.
    `prologue` is a region of tensor ops on x (a norm, say); `epilogue` a region of scalar
    arithmetic whose arguments are one f32 accumulator for each weight and one scalar for each extra
    operand, which broadcasts to the result (bias, residual). Without an epilogue the one
    accumulator is rounded to the result's type. Two weights and `silu(acc_0) * acc_1` are a gated
    MLP's first half.

    With `best of C`, which divides N, there are two more results: of every C neighbours of a row of
    y the largest (the lowest of equals, a NaN above everything), f32 [.., N / C], and where among
    them it is, i64 [.., N / C], counted from the first of the C.

    ```mlir
    %y = mpk_tensor.linear %x, [%gate, %up] prologue {
    ^bb0(%0 : tensor<1x8xbf16>, %1 : tensor<8xbf16>):
      %2 = mpk_tensor.rms_norm %0, %1 eps 1.0e-5 : ...
      mpk_tensor.yield %2 : tensor<1x8xbf16>
    } with %g : tensor<8xbf16> epilogue {
    ^bb0(%a : f32, %b : f32): ...
    } : tensor<1x8xbf16>, [tensor<16x8xbf16>, tensor<16x8xbf16>] to tensor<1x16xbf16>
    ```
    """

    name = "mpk_tensor.linear"
    NOTATION: ClassVar[str] = "y[r, n] += x[r, k] * w[n, k]"

    x = operand_def(TENSOR)
    weights = var_operand_def(TENSOR)
    prologue_args = var_operand_def(TENSOR)
    epilogue_args = var_operand_def(TENSOR)
    prologue = opt_region_def("single_block")
    epilogue = opt_region_def("single_block")
    best = opt_prop_def(IntegerAttr[I64])
    result = result_def(TENSOR)
    candidates = var_result_def(TENSOR)

    irdl_options = (
        AttrSizedOperandSegments(as_property=True),
        AttrSizedRegionSegments(as_property=True),
    )
    traits = traits_def(Pure())

    assembly_format = (
        "$x `,` `[` $weights `]` "
        "(`prologue` $prologue^)? (`with` $prologue_args^ `:` type($prologue_args))? "
        "(`epilogue` $epilogue^)? (`with` $epilogue_args^ `:` type($epilogue_args))? "
        "attr-dict `:` type($x) `,` `[` type($weights) `]` `to` type($result) "
        "(`best` `of` $best^ `to` type($candidates))?"
    )

    def __init__(
        self,
        x: SSAValue,
        weights: Sequence[SSAValue],
        element_type: Attribute,
        *,
        prologue: Region | None = None,
        prologue_args: Sequence[SSAValue] = (),
        epilogue: Region | None = None,
        epilogue_args: Sequence[SSAValue] = (),
        best: int | None = None,
    ):
        *rows, n = shape = [*shape_of(x)[:-1], shape_of(weights[0])[0]]
        chunks = [] if best is None else [*rows, n // best]
        super().__init__(
            operands=[x, weights, prologue_args, epilogue_args],
            properties={"best": None if best is None else IntegerAttr(best, i64)},
            regions=[
                [] if prologue is None else [prologue],
                [] if epilogue is None else [epilogue],
            ],
            result_types=[
                TensorType(element_type, shape),
                [TensorType(each, chunks) for each in (f32, i64) if best is not None],
            ],
        )

    def verify_(self) -> None:
        weights = self.weights
        if not weights:
            raise VerifyException("linear needs at least one weight")
        n, k = shape_of(self.result)[-1], shape_of(self.x)[-1]
        for weight in weights:
            if shape_of(weight) != (n, k):
                raise VerifyException(
                    f"linear from {self.x.type} to {self.result.type} needs weights of shape "
                    f"{n}x{k}, got {weight.type}"
                )
        if shape_of(self.x)[:-1] != shape_of(self.result)[:-1]:
            raise VerifyException(
                f"linear maps rows to rows, got {self.x.type} to {self.result.type}"
            )
        verify_fused_regions(self)
        self._verify_candidates()

    def _verify_candidates(self) -> None:
        wanted: list[Attribute] = []
        if self.best is not None:
            *rows, n = shape_of(self.result)
            of = self.best.value.data
            if of < 1 or n % of:
                raise VerifyException(f"{self.result.type} is not cut in parts of {of} elements")
            wanted = [TensorType(each, [*rows, n // of]) for each in (f32, i64)]
        if [value.type for value in self.candidates] != wanted:
            found = ", ".join(str(value.type) for value in self.candidates)
            raise VerifyException(
                f"the best of {self.result.type} are "
                f"{', '.join(map(str, wanted)) or 'not asked for'}, got {found or 'none'}"
            )

    def like(
        self,
        x: SSAValue,
        element_type: Attribute,
        *,
        weights: Sequence[SSAValue] | None = None,
        prologue: Region | None = None,
        prologue_args: Sequence[SSAValue] = (),
        epilogue: Region | None = None,
        epilogue_args: Sequence[SSAValue] = (),
        best: int | None = None,
    ) -> LinearOp:
        """The same product, by default of the same weights, with other things fused into it."""
        return LinearOp(
            x,
            self.weights if weights is None else weights,
            element_type,
            prologue=prologue,
            prologue_args=prologue_args,
            epilogue=epilogue,
            epilogue_args=epilogue_args,
            best=best,
        )


@irdl_op_definition
class MatmulOp(IRDLOperation):
    """Batched matrix product of two activations, NumPy's rules for the batch dimensions, fp32
    accumulation.

    lhs: [.., M, K]; rhs: [.., K, N]; result: [.., M, N].
    """

    name = "mpk_tensor.matmul"
    NOTATION: ClassVar[str] = "y[b, m, n] += a[b, m, k] * c[b, k, n]"

    lhs = operand_def(TENSOR)
    rhs = operand_def(TENSOR)
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = "$lhs `,` $rhs attr-dict `:` functional-type(operands, results)"

    def __init__(self, lhs: SSAValue, rhs: SSAValue):
        a, b = shape_of(lhs), shape_of(rhs)
        shape = [*broadcast_shape(a[:-2], b[:-2]), a[-2], b[-1]]
        super().__init__(
            operands=[lhs, rhs], result_types=[TensorType(element_type_of(lhs), shape)]
        )

    def verify_(self) -> None:
        a, b = shape_of(self.lhs), shape_of(self.rhs)
        if min(len(a), len(b), len(shape_of(self.result))) < 2 or a[-1] != b[-2]:
            raise VerifyException(f"matmul of {self.lhs.type} and {self.rhs.type}")
        *batch, m, n = shape_of(self.result)
        if (m, n) != (a[-2], b[-1]) or not is_broadcast(batch, a[:-2], b[:-2]):
            raise VerifyException(f"matmul does not give {self.result.type}")


@irdl_op_definition
class EmbeddingOp(IRDLOperation):
    """`y[.., h] = table[ids[..], h]`.

    With `position` (tensor<Txi64>), ids is the whole sequence [C], or B sequences [B, C], and the
    op looks up `ids[b, position[t]]`; the result is then [B, T, H]. An id outside the table is the
    caller's error; backends clamp it to the table. Of a bf16 or f16 table the result may be f32.
    """

    name = "mpk_tensor.embedding"
    NOTATION: ClassVar[str] = "y[t, h] = table[ids[t], h]"

    table = operand_def(TENSOR)
    ids = operand_def(TENSOR)
    position = opt_operand_def(TENSOR)
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = (
        "$table `,` $ids (`at` $position^)? attr-dict `:` functional-type(operands, results)"
    )

    def __init__(self, table: SSAValue, ids: SSAValue, position: SSAValue | None = None):
        rows = shape_of(ids)
        if position is not None:
            rows = (sequences_in(ids), *shape_of(position))
        super().__init__(
            operands=[table, ids, position],
            result_types=[TensorType(element_type_of(table), [*rows, shape_of(table)[1]])],
        )

    def verify_(self) -> None:
        if len(shape_of(self.table)) != 2:
            raise VerifyException(f"embedding table has rank 2, got {self.table.type}")
        rows = shape_of(self.ids)
        if self.position is not None:
            rows = (sequences_in(self.ids), *shape_of(self.position))
        if shape_of(self.result) != (*rows, shape_of(self.table)[1]):
            raise VerifyException(f"embedding of rows {rows} does not give {self.result.type}")
        stored, given = element_type_of(self.table), element_type_of(self.result)
        widened = isinstance(stored, BFloat16Type | Float16Type) and given == f32
        if stored != given and not widened:
            raise VerifyException(f"embedding from {self.table.type} does not give {given}")


@irdl_op_definition
class ArgmaxOp(IRDLOperation):
    """Index of the largest element along the last dimension; the lowest of equals. x: [.., V];
    result: i64 [..].
    """

    name = "mpk_tensor.argmax"

    x = operand_def(TENSOR)
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = "$x attr-dict `:` type($x) `to` type($result)"

    def __init__(self, x: SSAValue):
        super().__init__(operands=[x], result_types=[TensorType(i64, shape_of(x)[:-1])])

    def verify_(self) -> None:
        if shape_of(self.result) != shape_of(self.x)[:-1] or element_type_of(self.result) != i64:
            raise VerifyException(f"argmax of {self.x.type} does not give {self.result.type}")


OPS = (LinearOp, MatmulOp, EmbeddingOp, ArgmaxOp)
__all__ = [
    "OPS",
    "ArgmaxOp",
    "EmbeddingOp",
    "LinearOp",
    "MatmulOp",
    "verify_epilogue",
    "verify_fused_regions",
    "verify_prologue",
]
