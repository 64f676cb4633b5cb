"""Collectives: what ranks exchange. They stand in the step itself, where all ranks come to them.

Vocabulary and meaning are those of upstream's `shard` dialect (all_reduce, all_gather,
reduce_scatter). Where that names a grid and its axes, `of n` says how many different parts there
are: the n shards of the ranks, of which several neighbours have the same where n is less.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import I64, IntegerAttr, TensorType, f32, i64
from xdsl.ir import Attribute, Operation, Region, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_region_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from mpkir.dialects.mesh import check_shards
from mpkir.dialects.tensor.products import verify_epilogue
from mpkir.dialects.tensor.program import TENSOR, element_type_of, shape_of


def _verify_place(op: Operation, of: int) -> None:
    parent = op.parent_op()
    if parent is not None and parent.name.startswith("mpk_tensor."):
        raise VerifyException(f"{op.name} stands in a step, not within {parent.name}")
    check_shards(op, of, op.name)


@irdl_op_definition
class AllReduceOp(IRDLOperation):
    """The sum over ranks, in fp32 and in the order of ranks, so with the same bits on each; then
    `y = epilogue(sum, extra)`.

    x: f32, a partial sum on each rank; result: its shape. Of `of` partial sums: of ranks that have
    the same one, one counts. `epilogue` is that of `linear`: a region of scalar arithmetic on one
    f32 and one scalar for each extra operand, which broadcasts to the result (a residual) and is
    the same on every rank. Without one the sum is rounded to the result's type.

    ```mlir
    %y = mpk_tensor.all_reduce %x of 4 epilogue {
    ^bb0(%0 : f32, %1 : f32):
      %2 = arith.addf %0, %1 : f32
      mpk_tensor.yield %2 : f32
    } with %r : tensor<1x8xf32> : tensor<1x8xf32> to tensor<1x8xf32>
    ```
    """

    name = "mpk_tensor.all_reduce"

    x = operand_def(TENSOR)
    epilogue_args = var_operand_def(TENSOR)
    of = prop_def(IntegerAttr[I64])
    epilogue = opt_region_def("single_block")
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = (
        "$x `of` $of (`epilogue` $epilogue^)? (`with` $epilogue_args^ `:` type($epilogue_args))? "
        "attr-dict `:` type($x) `to` type($result)"
    )

    def __init__(
        self,
        x: SSAValue,
        of: int,
        element_type: Attribute,
        *,
        epilogue: Region | None = None,
        epilogue_args: Sequence[SSAValue] = (),
    ):
        super().__init__(
            operands=[x, epilogue_args],
            properties={"of": IntegerAttr(of, i64)},
            regions=[[] if epilogue is None else [epilogue]],
            result_types=[TensorType(element_type, shape_of(x))],
        )

    def verify_(self) -> None:
        _verify_place(self, self.of.value.data)
        if element_type_of(self.x) != f32:
            raise VerifyException(f"all_reduce adds partial sums in f32, got {self.x.type}")
        if shape_of(self.result) != shape_of(self.x):
            raise VerifyException(f"all_reduce of {self.x.type} does not give {self.result.type}")
        if self.epilogue is not None:
            verify_epilogue(self.epilogue, 1, self.epilogue_args, self.result)
        elif self.epilogue_args:
            raise VerifyException("extra operands need an epilogue")

    def like(
        self,
        x: SSAValue,
        element_type: Attribute,
        *,
        epilogue: Region | None = None,
        epilogue_args: Sequence[SSAValue] = (),
    ) -> AllReduceOp:
        """The same sum with another epilogue."""
        return AllReduceOp(
            x,
            self.of.value.data,
            element_type,
            epilogue=epilogue,
            epilogue_args=epilogue_args,
        )


class _AlongDimension(IRDLOperation):
    """What ranks exchange in shards along one dimension."""

    x = operand_def(TENSOR)
    dim = prop_def(IntegerAttr[I64])
    of = prop_def(IntegerAttr[I64])
    result = result_def(TENSOR)

    traits = traits_def(Pure())

    assembly_format = "$x `dim` $dim `of` $of attr-dict `:` type($x) `to` type($result)"

    def __init__(self, x: SSAValue, dim: int, of: int, result: Attribute):
        super().__init__(
            operands=[x],
            properties={"dim": IntegerAttr(dim, i64), "of": IntegerAttr(of, i64)},
            result_types=[result],
        )

    def verify_place(self) -> tuple[int, int]:
        """`dim` and `of`, where the op may stand so; VerifyException otherwise."""
        dim, of = self.dim.value.data, self.of.value.data
        _verify_place(self, of)
        if not 0 <= dim < len(shape_of(self.x)):
            raise VerifyException(f"{self.name} along dimension {dim} of {self.x.type}")
        return dim, of


@irdl_op_definition
class AllGatherOp(_AlongDimension):
    """The shards of all ranks one after another along `dim`, in the order of ranks.

    x: [.., L, ..]; result: [.., of * L, ..], of the same type.

    ```mlir
    %y = mpk_tensor.all_gather %x dim 1 of 4 : tensor<1x8xf32> to tensor<1x32xf32>
    ```
    """

    name = "mpk_tensor.all_gather"

    def __init__(self, x: SSAValue, dim: int, of: int):
        shape = list(shape_of(x))
        shape[dim] *= of
        super().__init__(x, dim, of, TensorType(element_type_of(x), shape))

    def verify_(self) -> None:
        dim, of = self.verify_place()
        shape = list(shape_of(self.x))
        shape[dim] *= of
        if self.result.type != TensorType(element_type_of(self.x), shape):
            raise VerifyException(
                f"{of} shards of {self.x.type} along dimension {dim} do not give {self.result.type}"
            )


@irdl_op_definition
class ReduceScatterOp(_AlongDimension):
    """Of the sum over ranks (as `all_reduce` makes it) the own shard along `dim`.

    x: f32 [.., of * L, ..]; result: [.., L, ..], rounded to its type. There are `of` partial sums
    and as many shards.

    ```mlir
    %y = mpk_tensor.reduce_scatter %x dim 1 of 4 : tensor<1x32xf32> to tensor<1x8xbf16>
    ```
    """

    name = "mpk_tensor.reduce_scatter"

    def __init__(self, x: SSAValue, dim: int, of: int, element_type: Attribute):
        shape = list(shape_of(x))
        shape[dim] //= of
        super().__init__(x, dim, of, TensorType(element_type, shape))

    def verify_(self) -> None:
        dim, of = self.verify_place()
        if element_type_of(self.x) != f32:
            raise VerifyException(f"reduce_scatter adds partial sums in f32, got {self.x.type}")
        shape = list(shape_of(self.x))
        if shape[dim] % of:
            raise VerifyException(f"{self.x.type} does not divide into {of} along dimension {dim}")
        shape[dim] //= of
        if list(shape_of(self.result)) != shape:
            raise VerifyException(
                f"a shard of {self.x.type}, one of {of} along dimension {dim}, is not "
                f"{self.result.type}"
            )


OPS = (AllReduceOp, AllGatherOp, ReduceScatterOp)
__all__ = ["OPS", "AllGatherOp", "AllReduceOp", "ReduceScatterOp"]
