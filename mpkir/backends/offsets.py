"""Where boxes of tasks lie: their offsets as C++, and whether they reach over a buffer's end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

from xdsl.ir.affine import (
    AffineBinaryOpExpr,
    AffineBinaryOpKind,
    AffineConstantExpr,
    AffineDimExpr,
    AffineExpr,
)

from mpkir.backends.body import Operand
from mpkir.errors import MpkirError

_SIGNS = {
    AffineBinaryOpKind.Add: "+",
    AffineBinaryOpKind.Mul: "*",
    AffineBinaryOpKind.Mod: "%",
    AffineBinaryOpKind.FloorDiv: "/",
}


def print_offset(expr: AffineExpr, coordinate: Callable[[int], str]) -> str:
    """An offset as a C++ expression; `coordinate` spells the task's place in a dimension of the
    grid. Neither is negative. MpkirError if there is no such expression.
    """
    match expr:
        case AffineConstantExpr():
            return str(expr.value)
        case AffineDimExpr():
            return coordinate(expr.position)
        case AffineBinaryOpExpr():
            left, right = print_offset(expr.lhs, coordinate), print_offset(expr.rhs, coordinate)
            if expr.kind in _SIGNS:
                return f"({left} {_SIGNS[expr.kind]} {right})"
            return f"(({left} + {right} - 1) / {right})"
        case _:
            raise MpkirError(f"an offset of {expr} has no form in C++")


def clipped(operand: Operand, grid: Sequence[int]) -> tuple[bool, ...]:
    """For each dimension, whether the box of some task may reach over the buffer's end."""
    corners = tuple(product(*({0, size - 1} for size in grid)))
    result: list[bool] = []
    for expr, size, box in zip(operand.offsets.results, operand.shape, operand.sizes, strict=True):
        monotone = all(
            not isinstance(part, AffineBinaryOpExpr)
            or part.kind in (AffineBinaryOpKind.Add, AffineBinaryOpKind.Mul)
            for part in expr.dfs()
        )
        reach = max(expr.eval(list(corner), []) for corner in corners) + box
        result.append(reach > size or not monotone)
    return tuple(result)
