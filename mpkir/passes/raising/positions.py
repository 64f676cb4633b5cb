"""Integer tensors that are affine in their indices and the step's position, and masks of them.

With P the position of the step's first token, element (i0, i1, ..) of an affine tensor is
`constant + position * P + i0 * c0 + i1 * c1 + ..`. A mask is the conjunction of conditions
`affine >= 0`. Deriving both from the graph proves what a mask hides, however it was written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from xdsl.dialects import arith
from xdsl.dialects.builtin import FloatAttr, IntegerAttr
from xdsl.ir import Operation, SSAValue

from mpkir.dialects import tensor
from mpkir.dialects.tensor import shape_of

MASKED = -1e4
"""A score of this or less is hidden: f16's lowest number is -65504, so models use no higher one."""


@dataclass(frozen=True)
class Affine:
    """`constant + position * P + sum(coefficients[d] * i_d)`; 0 for dimensions of size 1."""

    constant: int
    position: int
    coefficients: tuple[int, ...]

    def plus(self, other: Affine, sign: int = 1) -> Affine:
        return Affine(
            self.constant + sign * other.constant,
            self.position + sign * other.position,
            tuple(a + sign * b for a, b in zip(self.coefficients, other.coefficients, strict=True)),
        )

    def times(self, factor: int) -> Affine:
        return Affine(
            self.constant * factor,
            self.position * factor,
            tuple(c * factor for c in self.coefficients),
        )


@dataclass(frozen=True)
class Mask:
    """True where all `conditions` are >= 0."""

    conditions: frozenset[Affine]


@dataclass(frozen=True)
class Bias:
    """What is added to scores: 0 where the mask holds, so low that the score vanishes elsewhere."""

    mask: Mask


@dataclass(frozen=True)
class Literal:
    """The same float everywhere."""

    value: float


Fact = Affine | Mask | Bias | Literal


class Positions:
    """Facts about values of one program, each derived once."""

    def __init__(self) -> None:
        self._facts: dict[SSAValue, Fact | None] = {}

    def of(self, value: SSAValue) -> Fact | None:
        """What is known of a tensor, or None."""
        if value not in self._facts:
            self._facts[value] = self._derive(value)
        return self._facts[value]

    def is_position(self, value: SSAValue) -> bool:
        """Whether a tensor of rank 1 is P, P + 1, .."""
        shape = shape_of(value)
        if len(shape) != 1:
            return False
        return self.of(value) == Affine(0, 1, (0 if shape[0] == 1 else 1,))

    def _derive(self, value: SSAValue) -> Fact | None:
        op, shape = value.owner, shape_of(value)
        match op:
            case tensor.PositionOp():
                return Affine(0, 1, _for_shape((1,), shape))
            case tensor.IotaOp():
                step = op.step.value.data
                return Affine(op.start.value.data, 0, _for_shape((step,), shape))
            case tensor.FullOp():
                return _literal(op.value, len(shape))
            case tensor.ReshapeOp():
                return self._moved(op.source, _unit_reshape(shape_of(op.source), shape))
            case tensor.TransposeOp():
                order = op.permutation.get_values()
                return self._moved(op.source, lambda c: tuple(c[p] for p in order))
            case tensor.BroadcastOp():
                extra = len(shape) - len(shape_of(op.source))
                return self._moved(op.source, lambda c: (0,) * extra + c)
            case tensor.SliceOp():
                return self._sliced(op)
            case tensor.ElementwiseOp():
                return self._computed(op)
            case _:
                return None

    def _moved(
        self,
        source: SSAValue,
        indices: Callable[[tuple[int, ...]], tuple[int, ...]] | None,
    ) -> Fact | None:
        """The fact of a view: `indices` gives the view's coefficients from the source's."""
        fact = self.of(source)
        if fact is None or indices is None:
            return None
        return _map(fact, lambda a: replace(a, coefficients=indices(a.coefficients)))

    def _sliced(self, op: tensor.SliceOp) -> Fact | None:
        fact = self.of(op.source)
        dim, start, step = op.dim.value.data, op.start.value.data, op.step.value.data
        shape = shape_of(op.result)

        def cut(a: Affine) -> Affine:
            coefficients = list(a.coefficients)
            constant = a.constant + coefficients[dim] * start
            coefficients[dim] *= step
            return Affine(constant, a.position, _for_shape(tuple(coefficients), shape))

        return None if fact is None else _map(fact, cut)

    def _computed(self, op: tensor.ElementwiseOp) -> Fact | None:
        rank = len(shape_of(op.result))
        facts: dict[SSAValue, Fact | None] = {}
        for arg, operand in zip(op.body.block.args, op.inputs, strict=True):
            extra = rank - len(shape_of(operand))
            facts[arg] = self._moved(operand, lambda c, n=extra: (0,) * n + c)
        for inner in op.body.block.ops:
            if isinstance(inner, tensor.YieldOp):
                return facts[inner.arguments[0]]
            facts[inner.results[0]] = _scalar(inner, [facts[v] for v in inner.operands], rank)
        return None


def _for_shape(coefficients: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(0 if size == 1 else c for c, size in zip(coefficients, shape, strict=True))


def _unit_reshape(
    source: tuple[int, ...], result: tuple[int, ...]
) -> Callable[[tuple[int, ...]], tuple[int, ...]] | None:
    """How coefficients move if the reshape adds and drops dimensions of size 1 only."""
    if [s for s in source if s != 1] != [s for s in result if s != 1]:
        return None

    def move(coefficients: tuple[int, ...]) -> tuple[int, ...]:
        rest = iter([c for c, size in zip(coefficients, source, strict=True) if size != 1])
        return tuple(0 if size == 1 else next(rest) for size in result)

    return move


def _map(fact: Fact, function: Callable[[Affine], Affine]) -> Fact:
    match fact:
        case Affine():
            return function(fact)
        case Mask():
            return Mask(frozenset(map(function, fact.conditions)))
        case Bias():
            return Bias(Mask(frozenset(map(function, fact.mask.conditions))))
        case Literal():
            return fact


def _literal(value: object, rank: int) -> Fact | None:
    match value:
        case FloatAttr():
            return Literal(float(value.value.data))
        case IntegerAttr():
            number = value.value.data
            if str(value.type) == "i1":
                return Mask(frozenset()) if number else None
            return Affine(number, 0, (0,) * rank)
        case _:
            return None


def _negated(mask: Mask) -> Mask | None:
    if len(mask.conditions) != 1:
        return None
    (condition,) = mask.conditions
    opposite = condition.times(-1)
    return Mask(frozenset({replace(opposite, constant=opposite.constant - 1)}))


def _below(a: Affine, b: Affine, margin: int) -> Mask:
    """a + margin <= b"""
    difference = b.plus(a, -1)
    return Mask(frozenset({replace(difference, constant=difference.constant - margin)}))


def _compared(predicate: str, a: Affine, b: Affine) -> Mask | None:
    match predicate:
        case "sle" | "ule":
            return _below(a, b, 0)
        case "slt" | "ult":
            return _below(a, b, 1)
        case "sge" | "uge":
            return _below(b, a, 0)
        case "sgt" | "ugt":
            return _below(b, a, 1)
        case "eq":
            return Mask(_below(a, b, 0).conditions | _below(b, a, 0).conditions)
        case _:
            return None


def _scalar(op: Operation, operands: list[Fact | None], rank: int) -> Fact | None:
    """The fact of a scalar operation's result from those of its operands."""
    match op, operands:
        case arith.ConstantOp(), _:
            return _literal(op.value, rank)
        case (arith.ExtFOp() | arith.TruncFOp(), [Bias() | Literal() as a]):
            return a
        case (arith.ExtSIOp(), [Affine() as a]):
            return a
        case arith.AddiOp(), [Affine() as a, Affine() as b]:
            return a.plus(b)
        case arith.SubiOp(), [Affine() as a, Affine() as b]:
            return a.plus(b, -1)
        case arith.MuliOp(), [Affine() as a, Affine(constant=c, position=0, coefficients=b)]:
            return None if any(b) else a.times(c)
        case arith.CmpiOp(), [Affine() as a, Affine() as b]:
            return _compared(arith.CMPI_COMPARISON_OPERATIONS[op.predicate.value.data], a, b)
        case arith.AndIOp(), [Mask() as a, Mask() as b]:
            return Mask(a.conditions | b.conditions)
        case arith.XOrIOp(), [Mask() as a, Mask(conditions=b)]:
            return _negated(a) if not b else None
        case arith.SelectOp(), [Mask() as mask, Literal(value=a), Literal(value=b)]:
            if a == 0 and b <= MASKED:
                return Bias(mask)
            opposite = _negated(mask)
            return Bias(opposite) if b == 0 and a <= MASKED and opposite is not None else None
        case _:
            return None


def causal_window(fact: Fact | None, tokens: int, capacity: int) -> tuple[bool, int | None]:
    """Whether a mask [.., T, C] shows query t exactly the rows j <= P + t, and the window it has.

    With a window, rows j > P + t - window. A window as long as the cache is none.
    """
    mask = fact.mask if isinstance(fact, Bias) else fact
    if not isinstance(mask, Mask):
        return False, None
    token = 0 if tokens == 1 else 1
    causal, window = False, None
    for condition in mask.conditions:
        *lead, t, j = condition.coefficients
        if any(lead):
            return False, None
        if (condition.constant, condition.position, t, j) == (0, 1, token, -1):
            causal = True
        elif (condition.position, t, j) == (-1, -token, 1) and condition.constant >= 0:
            if condition.constant + 1 < capacity:
                window = min(window or capacity, condition.constant + 1)
        elif condition.constant < 0 or min(condition.position, t, j) < 0:
            return False, None
    return causal, window
