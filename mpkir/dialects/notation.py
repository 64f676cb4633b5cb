"""Index notation: what an operator computes, stated once, as text.

    y[r, n] += x[r, k] * w[n, k]        a sum over k, the axis that y does not have
    y[t, h] = table[ids[t], h]          a look-up: an index that is read from an operand
    p[h, t] = exp(s[h, t] - m[h])

From a definition derive its iteration space, the elements of each operand that a tile of the output
needs, arithmetic and bytes, and a NumPy reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedInput

from mpkir.errors import MpkirError

GRAMMAR = r"""
definition: access ASSIGN sum
?sum: product | sum SUM product
?product: factor | product PRODUCT factor
?factor: access | "(" sum ")" | call | number
call: NAME "(" sum ")"
number: NUMBER
access: NAME "[" index ("," index)* "]"
?index: axis | access
axis: NAME

ASSIGN: "+=" | "="
SUM: "+" | "-"
PRODUCT: "*" | "/"
NAME: /[A-Za-z_][A-Za-z_0-9]*/
NUMBER: /[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?/
%ignore " "
"""

Array: TypeAlias = npt.NDArray[Any]
Range: TypeAlias = tuple[int, int]
"""First index and length."""

_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "abs": np.abs,
    "cos": np.cos,
    "exp": np.exp,
    "log": np.log,
    "neg": np.negative,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sin": np.sin,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
}
_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
}


@dataclass(frozen=True)
class Access:
    """One element of an operand; an index is an axis's name or itself read from an operand."""

    name: str
    indices: tuple[str | Access, ...]

    @property
    def axes(self) -> tuple[str, ...]:
        """Every axis that decides which element this is, each once, in order of appearance."""
        found: list[str] = []
        for index in self.indices:
            found += (index,) if isinstance(index, str) else index.axes
        return tuple(dict.fromkeys(found))

    def __str__(self) -> str:
        return f"{self.name}[{', '.join(map(str, self.indices))}]"


@dataclass(frozen=True)
class Operation:
    """A function or an operator (`symbol`) on one or two expressions."""

    symbol: str
    arguments: tuple[Expression, ...]


Expression: TypeAlias = Access | Operation | float


@dataclass(frozen=True)
class Definition:
    """An operator: `output` is `value`, or its sum over `reduction_axes`."""

    output: Access
    value: Expression
    text: str

    @property
    def inputs(self) -> tuple[Access, ...]:
        """The operands read, each access once, in order; a look-up's indices follow it."""
        return tuple(dict.fromkeys(_accesses(self.value)))

    @property
    def iteration_space(self) -> tuple[str, ...]:
        """All axes: those of the output, then those summed over."""
        return tuple(dict.fromkeys((*self.output.axes, *_axes(self.value))))

    @property
    def reduction_axes(self) -> tuple[str, ...]:
        """The axes summed over."""
        return self.iteration_space[len(self.output.indices) :]

    def sizes(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
        """The size of every axis, given operands' shapes. MpkirError where they disagree."""
        found: dict[str, int] = {}
        for access in (self.output, *self.inputs):
            if access.name not in shapes:
                continue
            shape = shapes[access.name]
            if len(shape) != len(access.indices):
                raise MpkirError(f"{access} has not the rank of {list(shape)}", where=self.text)
            for index, size in zip(access.indices, shape, strict=True):
                if isinstance(index, str) and found.setdefault(index, size) != size:
                    raise MpkirError(
                        f"axis {index} has size {found[index]}, but {size} in {access}",
                        where=self.text,
                    )
        return found

    def footprint(
        self, tile: Mapping[str, Range], sizes: Mapping[str, int]
    ) -> tuple[tuple[Range | None, ...], ...]:
        """What a tile of the output needs: for each of `inputs`, a range for each dimension.

        `tile` has ranges of output axes; an axis it does not have is taken whole, as those summed
        over are. None stands for a dimension whose index is looked up: it may be anywhere.
        """
        ranges = {axis: tile.get(axis, (0, sizes[axis])) for axis in self.iteration_space}
        return tuple(
            tuple(ranges[i] if isinstance(i, str) else None for i in access.indices)
            for access in self.inputs
        )

    def arithmetic(self, sizes: Mapping[str, int]) -> int:
        """Scalar operations, an addition for each summand included."""
        each = _operations(self.value) + bool(self.reduction_axes)
        return each * prod(sizes[axis] for axis in self.iteration_space)

    def bytes(self, sizes: Mapping[str, int], element_bytes: Mapping[str, float]) -> float:
        """Bytes moved if every element is read or written once; `element_bytes` by operand."""
        return sum(
            element_bytes[access.name] * prod(sizes[axis] for axis in access.axes)
            for access in (self.output, *self.inputs)
        )

    def reference(self, operands: Mapping[str, Array]) -> Array:
        """The output, by NumPy: einsum of a product, else on the whole iteration space."""
        sizes = self.sizes({name: array.shape for name, array in operands.items()})
        factors = _factors(self.value)
        if factors is not None:
            numbers = {axis: i for i, axis in enumerate(self.iteration_space)}
            arguments: list[Any] = []
            for access in factors:
                arguments += [operands[access.name], [numbers[a] for a in access.axes]]
            return np.einsum(*arguments, [numbers[a] for a in self.output.axes])
        value = self._on_grid(self.value, operands)
        value = np.broadcast_to(value, [sizes[axis] for axis in self.iteration_space])
        return value.sum(axis=tuple(range(len(self.output.indices), value.ndim)))

    def _on_grid(self, value: Expression, operands: Mapping[str, Array]) -> Array:
        """An expression on the whole iteration space; size 1 along axes it does not depend on."""
        if isinstance(value, Operation):
            arguments = [self._on_grid(argument, operands) for argument in value.arguments]
            if len(arguments) == 1:
                return _FUNCTIONS[value.symbol](arguments[0])
            return _BINARY[value.symbol](arguments[0], arguments[1])
        if isinstance(value, float | int):
            return np.array(value)
        space = self.iteration_space
        indices: list[Array] = []
        for dimension, index in enumerate(value.indices):
            if isinstance(index, str):
                shape = [-1 if axis == index else 1 for axis in space]
                size: int = operands[value.name].shape[dimension]
                indices.append(np.arange(size).reshape(shape))
            else:
                indices.append(self._on_grid(index, operands))
        return operands[value.name][tuple(indices)]


@cache
def define(text: str) -> Definition:
    """Parse a definition. MpkirError shows the line with a caret under what is wrong."""
    try:
        tree: Tree[Token] = _parser().parse(text)  # pyright: ignore[reportUnknownMemberType]
    except UnexpectedInput as error:
        token: Any = getattr(error, "token", None)
        ended = token is not None and token.type == "$END"
        at = len(text) if ended else error.pos_in_stream or 0
        what = "more was expected" if ended else "unexpected"
        raise _error(text, at, what) from None
    output, assign, value = tree.children
    assert isinstance(output, Tree)
    assert isinstance(value, Tree)
    assert isinstance(assign, Token)
    definition = Definition(_access(output), _expression(value, text), text)
    indices = definition.output.indices
    for position, index in enumerate(indices):
        if not isinstance(index, str) or index in indices[:position]:
            raise _error(text, 0, "the output has each of its axes once")
        if index not in _axes(definition.value):
            raise _error(text, 0, f"axis {index} is not given a meaning on the right")
    if definition.reduction_axes and assign != "+=":
        axes = ", ".join(definition.reduction_axes)
        raise _error(text, assign.start_pos or 0, f"a sum over {axes} is written +=")
    if not definition.reduction_axes and assign == "+=":
        raise _error(text, assign.start_pos or 0, "there is no axis to sum over: write =")
    return definition


@cache
def _parser() -> Lark:
    return Lark(GRAMMAR, start="definition", parser="lalr", propagate_positions=True)


def _error(text: str, at: int, message: str) -> MpkirError:
    return MpkirError(f"not a definition in index notation:\n  {text}\n  {' ' * at}^ {message}")


def _access(tree: Tree[Token]) -> Access:
    name, *indices = tree.children
    found: list[str | Access] = []
    for index in indices:
        assert isinstance(index, Tree)
        found.append(str(index.children[0]) if index.data == "axis" else _access(index))
    return Access(str(name), tuple(found))


def _expression(tree: Tree[Token], text: str) -> Expression:
    children = tree.children
    match tree.data:
        case "access":
            return _access(tree)
        case "number":
            return float(str(children[0]))
        case "call":
            name, argument = children
            assert isinstance(name, Token)
            assert isinstance(argument, Tree)
            if name not in _FUNCTIONS:
                known = ", ".join(_FUNCTIONS)
                raise _error(text, name.start_pos or 0, f"no function; there are {known}")
            return Operation(str(name), (_expression(argument, text),))
        case _:
            left, symbol, right = children
            assert isinstance(left, Tree)
            assert isinstance(right, Tree)
            return Operation(str(symbol), (_expression(left, text), _expression(right, text)))


def _accesses(value: Expression | str) -> Iterator[Access]:
    if isinstance(value, Access):
        yield value
        for index in value.indices:
            yield from _accesses(index)
    elif isinstance(value, Operation):
        for argument in value.arguments:
            yield from _accesses(argument)


def _axes(value: Expression) -> tuple[str, ...]:
    return tuple(axis for access in _accesses(value) for axis in access.axes)


def _operations(value: Expression) -> int:
    if not isinstance(value, Operation):
        return 0
    return 1 + sum(map(_operations, value.arguments))


def _factors(value: Expression) -> tuple[Access, ...] | None:
    """The factors of a product of plain accesses; None for any other expression."""
    if isinstance(value, Access):
        return (value,) if all(isinstance(index, str) for index in value.indices) else None
    if not isinstance(value, Operation) or value.symbol != "*":
        return None
    left, right = map(_factors, value.arguments)
    return None if left is None or right is None else left + right
