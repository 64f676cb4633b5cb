"""Passes that change what a program computes, to see that a run before and after tells."""

from xdsl.context import Context
from xdsl.dialects.arith import AddfOp, MulfOp
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from mpkir.dialects.task import GridOp
from mpkir.universe import MpkirUniverse


class AddInsteadPass(ModulePass):
    name = "add-instead"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for product in [inner for inner in op.walk() if isinstance(inner, MulfOp)]:
            Rewriter.replace_op(product, AddfOp(product.lhs, product.rhs))


class ForgetWaitsPass(ModulePass):
    name = "forget-waits"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for grid in [inner for inner in op.walk() if isinstance(inner, GridOp)]:
            grid.properties.pop("waits", None)


UNIVERSE = MpkirUniverse(
    all_passes={
        "add-instead": lambda: AddInsteadPass,
        "forget-waits": lambda: ForgetWaitsPass,
    }
)
