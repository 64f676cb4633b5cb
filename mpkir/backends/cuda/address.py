"""How operands of a body are addressed in C++: types, offsets, bounds, alignment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd, prod

from xdsl.ir.affine import (
    AffineBinaryOpExpr,
    AffineBinaryOpKind,
    AffineConstantExpr,
    AffineExpr,
)

from mpkir.backends.body import Operand, Panels
from mpkir.backends.offsets import print_offset
from mpkir.backends.scalar import storage_type


def operand_type(operand: Operand) -> str:
    """The C++ type of an operand's elements in memory; a flagged one's carry a tag."""
    element = storage_type(operand.element_type)
    if not operand.is_flagged:
        return element
    if operand.in_planes and operand.panels is not None:
        return f"mpk::Planes<{operand.panels.columns * operand.panels.rows}>"
    if operand.is_brief:
        return f"mpk::Brief<{element}>"
    return f"mpk::{'Exchanged' if operand.is_exchange else 'Tagged'}<{element}>"


def affine(expr: AffineExpr, index: str) -> str:
    """An offset as a C++ expression of the task's index; it is not negative."""
    return print_offset(expr, lambda dim: f"c{dim}({index})")


def is_zero(expr: AffineExpr) -> bool:
    """Whether an offset is the constant 0."""
    return isinstance(expr, AffineConstantExpr) and expr.value == 0


def is_fixed(operand: Operand) -> bool:
    """Whether all tasks of a family touch the same box."""
    return not any(expr.used_dims() for expr in operand.offsets.results)


def in_panels(operand: Operand, panels: Panels, places: Mapping[int, str], number: str) -> str:
    """Where an element lies in panels, as a C++ expression.

    places  its index in each dimension that has several
    number  its place in row-major order, which is taken apart where dimensions step neither by
            whole tokens nor within one
    """
    columns, shape, strides = panels.columns, operand.shape, operand.strides
    first, column = divmod(operand.origin, columns)
    token = {d: strides[d] // columns for d in places if strides[d] % columns == 0}
    within = {d: strides[d] for d in places if d not in token}
    if column + sum((shape[d] - 1) * step for d, step in within.items()) < columns:
        place = f"{_sum(first, token, places)}, {_sum(column, within, places)}"
    else:
        place = f"int(({number}) / {columns}), int(({number}) % {columns})"
    return f"mpk::panel<{panels.group}, {panels.rows}>({place})"


def _sum(origin: int, steps: Mapping[int, int], places: Mapping[int, str]) -> str:
    terms = [str(origin)] if origin else []
    for d, step in steps.items():
        terms.append(places[d] if step == 1 else f"({places[d]}) * {step}")
    return " + ".join(terms) or "0"


def _divisor(expr: AffineExpr) -> int:
    """A number that divides every value of an offset; 0 for the constant 0."""
    match expr:
        case AffineConstantExpr():
            return abs(expr.value)
        case AffineBinaryOpExpr(kind=AffineBinaryOpKind.Add):
            return gcd(_divisor(expr.lhs), _divisor(expr.rhs))
        case AffineBinaryOpExpr(kind=AffineBinaryOpKind.Mul):
            return _divisor(expr.lhs) * _divisor(expr.rhs)
        case _:
            return 1


def rows_aligned(operand: Operand, elements: int) -> bool:
    """Whether each row of a task's box begins at a multiple of so many elements of the buffer, and
    as many from each multiple on are contiguous.
    """
    if not operand.shape or operand.strides[-1] != 1:
        return False
    if operand.apart and operand.apart % elements:
        return False
    if operand.panels is not None and operand.panels.group % elements:
        return False
    outer = operand.strides[:-1]
    starts = [
        _divisor(expr) * stride
        for expr, stride in zip(operand.offsets.results, operand.strides, strict=True)
    ]
    steps = [stride for stride, size in zip(outer, operand.sizes, strict=False) if size > 1]
    return gcd(operand.origin, *starts, *steps) % elements == 0


def linear_index(indices: Sequence[str], shape: Sequence[int]) -> str:
    """The row-major number of an element of a shape."""
    terms: list[str] = []
    stride = prod(shape)
    for index, size in zip(indices, shape, strict=True):
        stride //= max(size, 1)
        if index != "0" and size > 1:
            terms.append(index if stride == 1 else f"{index} * {stride}")
    return f"({' + '.join(terms)})" if len(terms) > 1 else (terms or ["0"])[0]


def unravel(number: str, shape: Sequence[int]) -> list[str]:
    """The indices of the element of a shape with this row-major number."""
    result: list[str] = []
    inner, outermost = 1, True
    dims = [d for d, size in enumerate(shape) if size > 1]
    for d in reversed(range(len(shape))):
        if shape[d] == 1 or number == "0":
            result.append("0")
            continue
        outermost = d == dims[0]
        quotient = number if inner == 1 else f"({number} / {inner})"
        result.append(quotient if outermost else f"({quotient} % {shape[d]})")
        inner *= shape[d]
    return result[::-1]


def reindex(indices: Sequence[str], shape: Sequence[int], to: Sequence[int]) -> list[str]:
    """Where the element of a shape at these indices is in another shape of the same elements."""
    kept = [index for index, size in zip(indices, shape, strict=True) if size > 1]
    if [size for size in shape if size > 1] == [size for size in to if size > 1]:
        found = iter(kept)
        return [next(found) if size > 1 else "0" for size in to]
    return unravel(linear_index(indices, shape), to)


def broadcast(indices: Sequence[str], shape: Sequence[int]) -> list[str]:
    """Where an operand that broadcasts to the indexed shape has its element."""
    tail = list(indices)[len(indices) - len(shape) :]
    return ["0" if size == 1 else index for index, size in zip(tail, shape, strict=True)]
