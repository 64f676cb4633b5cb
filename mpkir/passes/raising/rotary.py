"""Rotary embedding from `x * cos + rotate_half(x) * sin` and the tables' subgraphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from xdsl.dialects import arith
from xdsl.dialects.builtin import TensorType, f32
from xdsl.ir import Block, Operation, SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from mpkir.dialects import tensor
from mpkir.dialects.tensor import element_type_of, shape_of
from mpkir.passes.raising.positions import Affine, Positions
from mpkir.passes.raising.scalar_forms import Form, binary, count, form_of, unary


@dataclass(frozen=True)
class Product:
    """`factor` times cos or sin (`function`) of frequency `index` of `source` at a token."""

    factor: float
    function: str | None = None
    source: SSAValue | None = None
    index: int | None = None
    token: int | None = None

    def times(self, other: Product) -> Product | None:
        """The product, if it is still of this form: no field is set in both."""
        fields: dict[str, str | int | SSAValue | None] = {}
        for name in ("function", "source", "index", "token"):
            a, b = getattr(self, name), getattr(other, name)
            if a is not None and b is not None:
                return None
            fields[name] = b if a is None else a
        return Product(self.factor * other.factor, **fields)  # pyright: ignore[reportArgumentType]


class Tables:
    """Evaluates elements of cos and sin tables symbolically."""

    def __init__(self, positions: Positions) -> None:
        self.positions = positions
        self._elements: dict[tuple[SSAValue, tuple[int, ...]], Product | None] = {}
        self._tables: dict[tuple[SSAValue, str, bool], tuple[SSAValue, float] | None] = {}

    def table(
        self, value: SSAValue, function: str, interleaved: bool
    ) -> tuple[SSAValue, float] | None:
        """(inv_freq, scale) of scale * function((P + t) * inv_freq[i]) at [.., t, d].

        i is d mod (D / 2) or, interleaved, d div 2. The token dimension is the only one besides the
        last that is not of size 1.
        """
        key = value, function, interleaved
        if key not in self._tables:
            self._tables[key] = self._table(value, function, interleaved)
        return self._tables[key]

    def _table(
        self, value: SSAValue, function: str, interleaved: bool
    ) -> tuple[SSAValue, float] | None:
        shape = shape_of(value)
        if not shape or shape[-1] % 2 or sum(size != 1 for size in shape[:-1]) > 1:
            return None
        half = shape[-1] // 2
        first: Product | None = None
        for flat, index in enumerate(np.ndindex(*shape)):
            element = self.element(value, index)
            token, d = divmod(flat, shape[-1])
            if element is None or element.function != function or element.source is None:
                return None
            first = first or element
            if (element.source, element.factor) != (first.source, first.factor):
                return None
            if (element.token, element.index) != (token, d // 2 if interleaved else d % half):
                return None
        if first is None or first.source is None or count(first.source) != half:
            return None
        return first.source, first.factor

    def element(self, value: SSAValue, index: tuple[int, ...]) -> Product | None:
        key = value, index
        if key not in self._elements:
            self._elements[key] = self._derive(value, index)
        return self._elements[key]

    def _derive(self, value: SSAValue, index: tuple[int, ...]) -> Product | None:
        affine = self.positions.of(value)
        if isinstance(affine, Affine):
            offset = affine.constant + int(np.dot(affine.coefficients, index))
            return Product(1.0, token=offset) if affine.position == 1 else None
        op, shape = value.owner, shape_of(value)
        match op:
            case tensor.ReshapeOp():
                inner = shape_of(op.source)
                flat = int(np.ravel_multi_index(index, shape)) if shape else 0
                return self.element(op.source, tuple(map(int, np.unravel_index(flat, inner))))
            case tensor.TransposeOp():
                source = [0] * len(index)
                for d, p in enumerate(op.permutation.get_values()):
                    source[p] = index[d]
                return self.element(op.source, tuple(source))
            case tensor.BroadcastOp():
                return self.element(op.source, _clip(index, op.source))
            case tensor.SliceOp():
                source = list(index)
                dim = op.dim.value.data
                source[dim] = op.start.value.data + op.step.value.data * index[dim]
                return self.element(op.source, tuple(source))
            case tensor.ConcatOp():
                return self._concatenated(op, index)
            case tensor.MatmulOp() if shape_of(op.lhs)[-1] == 1:
                lhs = _clip((*index[:-1], 0), op.lhs)
                rhs = _clip((*index[:-2], 0, index[-1]), op.rhs)
                return _times(self.element(op.lhs, lhs), self.element(op.rhs, rhs))
            case tensor.ElementwiseOp():
                operands = [self.element(v, _clip(index, v)) for v in op.inputs]
                return _evaluate(form_of(op), operands) or _itself(value, index)
            case tensor.WeightOp():
                return _itself(value, index)
            case _:
                return None

    def _concatenated(self, op: tensor.ConcatOp, index: tuple[int, ...]) -> Product | None:
        dim = op.dim.value.data
        offset = index[dim]
        for source in op.sources:
            size = shape_of(source)[dim]
            if offset < size:
                return self.element(source, (*index[:dim], offset, *index[dim + 1 :]))
            offset -= size
        return None


def _itself(value: SSAValue, index: tuple[int, ...]) -> Product:
    """An element as what it is: frequencies may be weights, or computed (for short and long texts
    others)."""
    shape = shape_of(value)
    flat = int(np.ravel_multi_index(index, shape)) if shape else 0
    return Product(1.0, source=value, index=flat)


def _clip(index: tuple[int, ...], source: SSAValue) -> tuple[int, ...]:
    """The index in an operand that broadcasts."""
    shape = shape_of(source)
    tail = index[len(index) - len(shape) :]
    return tuple(0 if size == 1 else i for i, size in zip(tail, shape, strict=True))


def _times(a: Product | None, b: Product | None) -> Product | None:
    return None if a is None or b is None else a.times(b)


def _evaluate(form: Form, operands: list[Product | None]) -> Product | None:
    match form:
        case ("arg", int(i)):
            return operands[i]
        case ("const", float(c)):
            return Product(c)
        case ("arith.mulf", tuple(a), tuple(b)):
            return _times(_evaluate(a, operands), _evaluate(b, operands))
        case ("arith.sitofp", tuple(a)):
            return _evaluate(a, operands)
        case ("math.cos" | "math.sin" as name, tuple(a)):
            angle = _evaluate(a, operands)
            if angle is None or angle.factor != 1.0 or angle.function is not None:
                return None
            return Product(1.0, name, angle.source, angle.index, angle.token)
        case _:
            return None


def _rotated_half(value: SSAValue) -> SSAValue | None:
    """x if the value is concat(-x[.., D / 2 :], x[.., : D / 2])."""
    op = value.owner
    if not isinstance(op, tensor.ConcatOp) or len(op.sources) != 2:
        return None
    rank, size = len(shape_of(value)), shape_of(value)[-1]
    low, high = op.sources[1].owner, (unary(op.sources[0], "arith.negf") or value).owner
    if not isinstance(low, tensor.SliceOp) or not isinstance(high, tensor.SliceOp):
        return None
    if op.dim.value.data != rank - 1 or low.source is not high.source:
        return None
    for half, start in ((low, 0), (high, size // 2)):
        place = half.dim.value.data, half.start.value.data, half.step.value.data
        if place != (rank - 1, start, 1) or shape_of(half.result)[-1] != size // 2:
            return None
    return low.source if shape_of(low.source)[-1] == size else None


def _rotated_pairs(value: SSAValue) -> SSAValue | None:
    """x if the value holds (-x[.., 2i + 1], x[.., 2i]) for each pair of x."""
    joined = value.owner
    if not isinstance(joined, tensor.ReshapeOp):
        return None
    pairs = joined.source.owner
    if not isinstance(pairs, tensor.ConcatOp) or len(pairs.sources) != 2:
        return None
    lead, size = shape_of(value)[:-1], shape_of(value)[-1]
    if size % 2 or shape_of(pairs.result) != (*lead, size // 2, 2):
        return None
    slices: list[tensor.SliceOp] = []
    for source, start in zip(pairs.sources, (1, 0), strict=True):
        alone = source.owner
        if not isinstance(alone, tensor.ReshapeOp) or shape_of(source) != (*lead, size // 2, 1):
            return None
        negated = unary(alone.source, "arith.negf") if start else alone.source
        op = None if negated is None else negated.owner
        if not isinstance(op, tensor.SliceOp):
            return None
        place = op.dim.value.data, op.start.value.data, op.step.value.data
        if place != (len(lead), start, 2) or shape_of(op.result) != (*lead, size // 2):
            return None
        slices.append(op)
    x = slices[0].source
    return x if slices[1].source is x and shape_of(x) == (*lead, size) else None


@dataclass(frozen=True)
class RaiseRotary(RewritePattern):
    """`x * cos + rotate_half(x) * sin`, x [B, T, heads, D] or [B, heads, T, D]."""

    tables: Tables

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.ElementwiseOp, rewriter: PatternRewriter, /) -> None:
        if (terms := binary(op.result, "arith.addf")) is None:
            return
        for first, second in (terms, terms[::-1]):
            straight = binary(first, "arith.mulf")
            turned = binary(second, "arith.mulf")
            if straight is None or turned is None:
                continue
            for half, sin in (turned, turned[::-1]):
                for x, interleaved in ((_rotated_half(half), False), (_rotated_pairs(half), True)):
                    if x is None or x not in straight:
                        continue
                    cos = straight[1] if straight[0] is x else straight[0]
                    if self.rewrite(op, x, cos, sin, interleaved, rewriter):
                        return

    def rewrite(
        self,
        op: tensor.ElementwiseOp,
        x: SSAValue,
        cos: SSAValue,
        sin: SSAValue,
        interleaved: bool,
        rewriter: PatternRewriter,
    ) -> bool:
        shape = shape_of(x)
        if len(shape) != 4 or shape_of(op.result) != shape or shape_of(cos) != shape_of(sin):
            return False
        found = self.tables.table(cos, "math.cos", interleaved)
        if found is None or found != self.tables.table(sin, "math.sin", interleaved):
            return False
        inv_freq, scale = found
        if 2 * count(inv_freq) != shape[3]:
            return False
        head_major = _is_head_major(shape, shape_of(cos))
        if head_major is None:
            return False
        tokens = shape[2] if head_major else shape[1]
        ops: list[Operation] = [position := tensor.PositionOp(tokens)]
        frequencies = inv_freq
        if len(shape_of(inv_freq)) != 1:
            ops.append(flat := tensor.ReshapeOp(inv_freq, [count(inv_freq)]))
            frequencies = flat.result
        if element_type_of(frequencies) != f32:
            ops.append(wide := _widened(frequencies))
            frequencies = wide.result
        element = element_type_of(op.result)
        ops += _token_major(
            x,
            head_major,
            lambda x: tensor.RotaryOp(x, position.result, frequencies, scale, interleaved, element),
        )
        for new in ops:
            new.location = op.location
        rewriter.replace(op, ops)
        return True


def _widened(value: SSAValue) -> tensor.ElementwiseOp:
    """A half-precision tensor in f32."""
    block = Block(arg_types=[element_type_of(value)])
    block.add_ops([cast := arith.ExtFOp(block.args[0], f32), tensor.YieldOp(cast.result)])
    return tensor.ElementwiseOp([value], block, TensorType(f32, shape_of(value)))


def _is_head_major(x: tuple[int, ...], table: tuple[int, ...]) -> bool | None:
    """Whether the tokens are x's third dimension, not its second; None if they are neither."""
    lead = ((1,) * (4 - len(table)) + table)[:3]
    if lead[0] != 1:
        return None
    if lead == (1, 1, x[2]):
        return True
    return False if lead == (1, x[1], 1) else None


def _token_major(
    x: SSAValue, head_major: bool, rotary: Callable[[SSAValue], tensor.RotaryOp]
) -> list[Operation]:
    """A rotary op of x, which wants tokens before heads: between transposes if heads come first."""
    if not head_major:
        return [rotary(x)]
    before = tensor.TransposeOp(x, [0, 2, 1, 3])
    turned = rotary(before.result)
    return [before, turned, tensor.TransposeOp(turned.result, [0, 2, 1, 3])]


class RaisePartialRotary(RewritePattern):
    """`concat(rotary(x[.., :R]), x[.., R:])` turns the first R dimensions of x."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.ConcatOp, rewriter: PatternRewriter, /) -> None:
        if len(op.sources) != 2 or op.dim.value.data != 3:
            return
        turned, rest = op.sources[0].owner, op.sources[1].owner
        head_major = isinstance(turned, tensor.TransposeOp)
        if head_major:
            turned = _swapped(turned)
        if not isinstance(turned, tensor.RotaryOp):
            return
        part = turned.x.owner
        if head_major:
            part = _swapped(part) if isinstance(part, tensor.TransposeOp) else None
        if not isinstance(part, tensor.SliceOp) or not isinstance(rest, tensor.SliceOp):
            return
        x, split = part.source, shape_of(part.result)[3]
        if rest.source is not x or shape_of(op.result) != shape_of(x):
            return
        for piece, start in ((part, 0), (rest, split)):
            if (piece.dim.value.data, piece.start.value.data, piece.step.value.data) != (
                3,
                start,
                1,
            ):
                return
        ops = _token_major(
            x,
            head_major,
            lambda x: tensor.RotaryOp(
                x,
                turned.position,
                turned.inv_freq,
                turned.scale.value.data,
                turned.interleaved is not None,
                element_type_of(op.result),
            ),
        )
        for new in ops:
            new.location = op.location
        rewriter.replace(op, ops)


def _swapped(op: tensor.TransposeOp) -> object:
    """What computes the source of a transpose between head-major and token-major."""
    return op.source.owner if op.permutation.get_values() == (0, 2, 1, 3) else None
