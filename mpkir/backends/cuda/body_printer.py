"""One body as a C++ struct: element functions of its values, and statements that store them.

A value of a body is not an array: it is a function of an element's indices, so whatever is
pointwise (arithmetic, views, rotary) folds into the one operator that a skeleton computes, and is
rounded once, where it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from xdsl.dialects.builtin import (
    DenseIntOrFPElementsAttr,
    FloatAttr,
    IntegerAttr,
    UnknownLoc,
)
from xdsl.ir import Attribute, Block, Operation, SSAValue

from mpkir.backends.cuda.address import (
    broadcast,
    linear_index,
    reindex,
    unravel,
)
from mpkir.backends.cuda.operand_printer import DEVICE, OperandPrinter, float_literal
from mpkir.backends.scalar import Spelling, carried_type, literal, print_scalars, storage_type
from mpkir.dialects import task, tensor
from mpkir.dialects.tensor import element_type_of, shape_of
from mpkir.errors import MpkirError
from mpkir.registry import Registry

SPELLING = Spelling(
    round_bf16="mpk::round_bf16",
    round_f16="mpk::round_f16",
    infinity="mpk::infinity()",
    nan="mpk::nan()",
    functions={"rsqrt": "rsqrtf"},
)
_RUN_TIME = (task.IndexOp, tensor.PositionOp)

ElementForm: TypeAlias = "Callable[[BodyPrinter, Any, list[str], list[str]], str]"
ELEMENTS: Registry[type[Operation], ElementForm] = Registry(
    "cuda-elements",
    "mpkir.backends.cuda.body_printer.ELEMENTS",
    ("printer", "op", "indices", "statements"),
)
"""Functions that give an element of an operator's result as an expression of its indices, for
operators that fold into another's skeleton; statements that it needs are appended."""


@dataclass
class BodyPrinter(OperandPrinter):
    """Collects the members of one body's struct."""

    functions: dict[SSAValue, str] = field(default_factory=dict[SSAValue, str])
    aliases: dict[SSAValue, SSAValue] = field(default_factory=dict[SSAValue, SSAValue])
    """Arguments of prologues: what they stand for."""
    computed: dict[SSAValue, tuple[str, list[str]]] = field(
        default_factory=dict[SSAValue, tuple[str, list[str]]]
    )
    """Results that the skeleton hands over: a C++ expression, and the indices of that element."""
    sent: dict[tuple[int, tuple[str, ...]], str] | None = None
    """While what `Gathered` computes is printed: marked elements that it has fetched before, by
    operand and indices; what they are called."""
    headers: set[str] = field(default_factory=set[str])
    """Headers of plugins that the skeleton needs, by their paths in an include directory."""
    count: int = 0

    # ---- errors ----

    def refuse(self, op: Operation, why: str = "has no form on a GPU") -> MpkirError:
        """The error of an operator that cannot be printed."""
        operands = ", ".join(str(value.type) for value in op.operands)
        results = ", ".join(str(value.type) for value in op.results)
        known = None if isinstance(op.location, UnknownLoc) else str(op.location)
        return MpkirError(
            f"'{op.name}' of ({operands}) -> ({results}) {why}",
            where=known or f"family @{self.body.families[0]}",
            hint=ELEMENTS.missing(op),
        )

    # ---- operands ----

    @property
    def yielded(self) -> tuple[SSAValue, ...]:
        """The values of the written operands, in order."""
        last = self.body.op.body.block.last_op
        assert last is not None
        return tuple(last.operands)

    def source(self, value: SSAValue) -> SSAValue:
        """What a prologue's argument stands for; the value itself otherwise."""
        while value in self.aliases:
            value = self.aliases[value]
        return value

    def enter(self, block: Block, arguments: Sequence[SSAValue]) -> None:
        """Let the arguments of a region of tensor ops stand for values outside."""
        self.aliases.update(zip(block.args, arguments, strict=True))

    def read_number(self, value: SSAValue) -> int | None:
        """Which operand a value is, reshaped or not; None if it is computed in the body."""
        value = self.source(value)
        args = self.body.op.body.block.args
        return args.index(value) if value in args else None

    def read(self, op: Operation, value: SSAValue) -> int:
        """The same, for an operator that needs the operand in memory."""
        number = self.read_number(value)
        if number is None:
            raise self.refuse(op, f"needs {value.type} in memory, not computed in the same body")
        return number

    def read_plain(self, op: Operation, value: SSAValue) -> int:
        """The same, for an operator that steps through the buffer itself, so sees no part of it."""
        number = self.read(op, value)
        if not self.body.operands[number].is_plain:
            raise self.refuse(op, f"needs {value.type} row by row in memory, not a strided view")
        return number

    def is_constant(self, value: SSAValue) -> bool:
        """Whether a value is made from parameters and literals only."""
        value = self.source(value)
        number = self.read_number(value)
        if number is not None:
            return self.is_weight(number)
        owner = value.owner
        if not isinstance(owner, Operation) or isinstance(owner, _RUN_TIME):
            return False
        return all(map(self.is_constant, owner.operands))

    def stores(self, result: SSAValue, value: str, indices: Sequence[str]) -> list[str]:
        """Statements that store all that is yielded of a result whose element is in `value`."""
        self.computed[result] = (value, list(indices))
        statements: list[str] = []
        found = False
        for write, yielded in enumerate(self.yielded):
            if not self.depends(yielded):
                continue
            found = True
            if shape_of(yielded) != shape_of(result):
                owner = yielded.owner
                assert isinstance(owner, Operation)
                raise self.refuse(owner, "changes the shape of what is computed in the same body")
            element = self.evaluate(yielded, indices, statements)
            statements.append(self.store(write, indices, element))
        del self.computed[result]
        if not found:
            owner = result.owner
            assert isinstance(owner, Operation)
            raise self.refuse(owner, "is not stored by the body that computes it")
        return statements

    # ---- values ----

    def depends(self, value: SSAValue) -> bool:
        """Whether a value is made from what the skeleton hands over."""
        value = self.source(value)
        if value in self.computed:
            return True
        owner = value.owner
        return isinstance(owner, Operation) and any(map(self.depends, owner.operands))

    def element(self, value: SSAValue, indices: Sequence[str]) -> str:
        """An element of a value that depends on nothing the skeleton computes, as an expression."""
        return self.evaluate(value, indices, [])

    def evaluate(self, value: SSAValue, indices: Sequence[str], out: list[str]) -> str:
        """An element of a value, of its carried type; statements that it needs go to `out`."""
        value = self.source(value)
        if value in self.computed:
            name, at = self.computed[value]
            if list(indices) != at:
                owner = value.owner
                assert isinstance(owner, Operation)
                raise self.refuse(owner, "is used element for element with another element")
            return name
        number = self.read_number(value)
        if number is not None:
            if self.sent is not None and self.body.operands[number].is_flagged:
                self.pointer(number, indices)
                name = self.sent.setdefault((number, tuple(indices)), f"e{len(self.sent)}")
                return f"sent.{name}.get(0)"
            return f"{self._read_function(value, number)}({', '.join(('w', *indices))})"
        owner = value.owner
        assert isinstance(owner, Operation)
        view = self._through_view(owner, indices, out)
        if view is not None:
            return view
        inline = self.sent is not None or self.depends(value)
        if isinstance(owner, tensor.ElementwiseOp) and inline:
            return self._scalars(owner, indices, out)
        return f"{self._function(value, owner)}({', '.join(('w', *indices))})"

    def _read_function(self, value: SSAValue, number: int) -> str:
        name = self.functions.get(value)
        if name is None:
            name = self.functions[value] = f"r{number}"
            operand = self.body.operands[number]
            indices = [f"i{d}" for d in range(len(operand.sizes))]
            pointer, condition = self.pointer(number, indices), self.inside(number, indices)
            carried = carried_type(operand.element_type)
            if operand.is_flagged:
                loaded = f"mpk::await({pointer}, w)"
            else:
                loaded = f"mpk::load({pointer})"
                if carried == "float":
                    loaded = f"mpk::to_float({loaded})"
            if condition is not None:
                loaded = f"{condition} ? {loaded} : {_cast(carried, '0')}"
            self.lines.append(
                f"{DEVICE} {carried} {name}({self.parameters(len(indices))}) {{ return {loaded}; }}"
            )
        return name

    def _through_view(self, op: Operation, indices: Sequence[str], out: list[str]) -> str | None:
        """An element of an op that only moves elements, or knows them; None for other ops."""
        match op:
            case task.IndexOp():
                return f"mpk::i64(c{op.dim.value.data}(w.index))"
            case tensor.PositionOp():
                return f"(w.position + {indices[0]})"
            case tensor.ReshapeOp():
                source = reindex(indices, shape_of(op.result), shape_of(op.source))
                return self.evaluate(op.source, source, out)
            case tensor.TransposeOp():
                order = op.permutation.get_values()
                moved = [indices[order.index(d)] for d in range(len(order))]
                return self.evaluate(op.source, moved, out)
            case tensor.SliceOp():
                start, step = op.start.value.data, op.step.value.data
                moved = list(indices)
                d = op.dim.value.data
                moved[d] = f"({start} + {moved[d]}{'' if step == 1 else f' * {step}'})"
                return self.evaluate(op.source, moved, out)
            case tensor.BroadcastOp():
                return self.evaluate(op.source, broadcast(indices, shape_of(op.source)), out)
            case tensor.FullOp():
                return self._literal(op)
            case tensor.IotaOp():
                start, step = op.start.value.data, op.step.value.data
                carried = carried_type(element_type_of(op.result))
                return f"({_cast(carried, start)} + {_cast(carried, indices[0])} * {step})"
            case tensor.SequenceReadOp():
                place = f"int({self.element(op.position, indices[1:])})"
                row = [] if len(shape_of(op.sequence)) == 1 else [indices[0]]
                return self.evaluate(op.sequence, [*row, place], out)
            case _:
                return None

    def _literal(self, op: tensor.FullOp) -> str:
        match op.value:
            case FloatAttr() | IntegerAttr():
                value = op.value.value.data
            case DenseIntOrFPElementsAttr() if op.value.is_splat():
                value = op.value.get_values()[0]
                assert isinstance(value, int | float)
            case _:
                raise self.refuse(op, "holds no single number")
        element = element_type_of(op.result)
        return _cast(carried_type(element), literal(value, element, SPELLING))

    def _function(self, value: SSAValue, op: Operation) -> str:
        """The member function that gives an element of a computed value; defined at first use."""
        name = self.functions.get(value)
        if name is not None:
            return name
        indices = [f"i{d}" for d in range(len(shape_of(value)))]
        statements: list[str] = []
        sent, self.sent = self.sent, None  # is known where the skeleton's own element is computed
        match op:
            case tensor.ElementwiseOp():
                result = self._scalars(op, indices, statements)
            case tensor.RotaryOp():
                result = self._rotary(op, indices, statements)
            case tensor.ConcatOp():
                result = self._concat(op, indices)
            case _:
                form = ELEMENTS.get(type(op))
                if form is None:
                    raise self.refuse(op)
                result = form(self, op, indices, statements)
        self.sent = sent
        name = self.functions[value] = f"v{self.fresh()}"
        body = " ".join((*statements, f"return {result};"))
        self.lines.append(
            f"{DEVICE} {carried_type(element_type_of(value))} "
            f"{name}({self.parameters(len(indices))}) {{ {body} }}"
        )
        return name

    def _scalars(self, op: tensor.ElementwiseOp, indices: Sequence[str], out: list[str]) -> str:
        arguments: list[str] = []
        for value in op.inputs:
            arguments.append(self.evaluate(value, broadcast(indices, shape_of(value)), out))
        return self.region(op.body.block, arguments, out)

    def region(self, block: Block, arguments: Sequence[str], out: list[str]) -> str:
        """A region of scalar arithmetic on these arguments; its statements go to `out`."""
        names: list[str] = []
        for argument, text in zip(block.args, arguments, strict=True):
            names.append(f"a{self.fresh()}")
            carried = carried_type(argument.type)
            out.append(f"[[maybe_unused]] const {carried} {names[-1]} = {text};")
        printed = print_scalars(block, names, SPELLING, prefix=f"s{self.fresh()}_")
        out.extend(printed.statements)
        return printed.results[0]

    def _rotary(self, op: tensor.RotaryOp, indices: list[str], out: list[str]) -> str:
        *outer, d = indices
        turned = 2 * shape_of(op.inv_freq)[0]
        half = turned // 2
        interleaved = op.interleaved is not None
        pair = f"{d} / 2" if interleaved else f"{d} % {half}"
        second = f"({d} & 1)" if interleaved else f"{d} >= {half}"
        other = f"({d} ^ 1)" if interleaved else f"({d} >= {half} ? {d} - {half} : {d} + {half})"
        own = self.element(op.x, indices)
        if turned < shape_of(op.x)[-1]:
            out.append(f"if ({d} >= {turned}) return {own};")
        position, frequency = (
            self.element(op.position, indices[1:2]),
            self.element(op.inv_freq, [pair]),
        )
        out.append("float sine, cosine;")
        out.append(f"mpk::sine_cosine(float({position}) * {frequency}, sine, cosine);")
        out.append(f"const float x = {own}, y = {self.element(op.x, [*outer, other])};")
        scale = float_literal(op.scale.value.data)
        return f"{scale} * ({second} ? x * cosine + y * sine : x * cosine - y * sine)"

    def _concat(self, op: tensor.ConcatOp, indices: list[str]) -> str:
        d, first, result = op.dim.value.data, 0, ""
        index = indices[d]
        for number, value in enumerate(op.sources):
            size = shape_of(value)[d]
            moved = [*indices[:d], f"({index} - {first})" if first else index, *indices[d + 1 :]]
            if size == 1:
                moved[d] = "0"
            piece = self.element(value, moved)
            first += size
            last = number == len(op.sources) - 1
            result += piece if last else f"{index} < {first} ? {piece} : "
        return result

    def fresh(self) -> int:
        """A number that no name of this body has yet."""
        self.count += 1
        return self.count

    def lead(self, number: str, shape: Sequence[int]) -> list[str]:
        """Indices of row `number` of a tensor's leading dimensions."""
        return unravel(number, shape)

    def flat(self, indices: Sequence[str], shape: Sequence[int]) -> str:
        """The row-major number of an element."""
        return linear_index(indices, shape)


def _cast(type: str, value: object) -> str:
    """A conversion, which C++ writes like a call for types of one word only."""
    return f"{'mpk::i64' if type == 'long long' else type}({value})"


def element_of(type: Attribute) -> str:
    """The C++ type of an element in memory."""
    return storage_type(type)
