"""raise: recognise norms, rotary embedding, attention, gated MLPs and experts in imported
operators.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriteWalker, RewritePattern
from xdsl.rewriter import InsertPoint, Rewriter
from xdsl.transforms.dead_code_elimination import dce

from mpkir.dialects import tensor
from mpkir.passes.canonicalize_views import CanonicalizeViewsPass
from mpkir.passes.raising.attention import RaiseAttention
from mpkir.passes.raising.experts import (
    RaiseExpertLinear,
    RaiseSliceOfExpertLinear,
    RaiseWeightedSum,
)
from mpkir.passes.raising.gated_mlp import RaiseGatedMlp
from mpkir.passes.raising.norms import RaiseLayerNorm, RaiseNormWeight, RaiseRmsNorm
from mpkir.passes.raising.positions import Positions
from mpkir.passes.raising.prologues import MoveIntoAttention
from mpkir.passes.raising.rotary import RaisePartialRotary, RaiseRotary, Tables
from mpkir.passes.raising.routers import RaiseSoftmaxOfChosen, RaiseTopkOfSoftmax
from mpkir.passes.raising.views import (
    ReshapeBeforeConversion,
    ReshapeBehindLinear,
    ReshapeBehindTopk,
)


@dataclass(frozen=True)
class RaiseOperatorsPass(ModulePass):
    """Replace subgraphs by the operators that a model's author would name.

    What is not recognised stays as it was imported, which is slower but right. Raised operators
    may keep fp32 where the ops they replace rounded to bf16.
    """

    name = "mpk-raise"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        def run(*patterns: RewritePattern) -> None:
            for pattern in patterns:
                PatternRewriteWalker(pattern, apply_recursively=False).rewrite_module(op)

        positions = Positions()
        run(RaiseRmsNorm(), RaiseNormWeight(), RaiseLayerNorm())
        run(RaiseRotary(Tables(positions)), RaisePartialRotary(), RaiseAttention(positions))
        run(RaiseExpertLinear(), RaiseTopkOfSoftmax(), RaiseSoftmaxOfChosen())
        dce(op)
        _merge_positions(op)
        CanonicalizeViewsPass().apply(ctx, op)
        # Only now: the views between a rotary embedding and the attention are gone.
        run(MoveIntoAttention(), RaiseSliceOfExpertLinear(), ReshapeBehindLinear())
        dce(op)
        run(RaiseGatedMlp(), RaiseWeightedSum(), ReshapeBehindTopk())
        run(ReshapeBeforeConversion())
        CanonicalizeViewsPass().apply(ctx, op)
        dce(op)


def _merge_positions(module: ModuleOp) -> None:
    """One position op at the start of each function serves all that read it."""
    for function in module.walk():
        if not isinstance(function, FuncOp):
            continue
        first: dict[Attribute, tensor.PositionOp] = {}
        for position in [o for o in function.walk() if isinstance(o, tensor.PositionOp)]:
            kept = first.setdefault(position.result.type, position)
            position.detach()
            if kept is position:
                block = function.body.block
                Rewriter.insert_op(position, InsertPoint.at_start(block))
            else:
                position.result.replace_all_uses_with(kept.result)
                position.erase()
