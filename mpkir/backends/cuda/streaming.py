"""Linear bodies: the product that streams weights, with its prologue and epilogue."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from xdsl.dialects.builtin import BFloat16Type, Float16Type, Float32Type
from xdsl.ir import Attribute, Operation, SSAValue

from mpkir.backends.body import Operand
from mpkir.backends.cuda.address import (
    affine,
    broadcast,
    is_fixed,
    is_zero,
    operand_type,
    rows_aligned,
)
from mpkir.backends.cuda.body_printer import SPELLING, BodyPrinter, element_of
from mpkir.backends.cuda.operand_printer import DEVICE, WORK, float_literal
from mpkir.backends.cuda.row_functions import fetch_function, scale_functions
from mpkir.backends.scalar import carried_type
from mpkir.dialects import task, tensor
from mpkir.dialects.tensor import element_type_of, shape_of

_NORMS = (tensor.RmsNormOp, tensor.LayerNormOp)


def print_linear(p: BodyPrinter, op: tensor.LinearOp) -> str:
    """The members of a linear body; its skeleton."""
    *lead, depth = shape_of(op.x)
    numbers = [p.read_plain(op, weight) for weight in op.weights]
    weights = [p.body.reads[number] for number in numbers]
    first, kind = weights[0], weights[0].element_type
    if not isinstance(kind, BFloat16Type | Float16Type | Float32Type):
        raise p.refuse(op, "has weights that are not bf16, f16 or f32")
    for weight in weights:
        whole = weight.sizes[1] == depth == weight.shape[1] and is_zero(weight.offsets.results[1])
        same = (weight.shape, weight.sizes, weight.offsets, weight.element_type) == (
            first.shape,
            first.sizes,
            first.offsets,
            first.element_type,
        )
        if not whole or not same:
            raise p.refuse(op, "has weights that are not whole rows, alike in all of them")
    p.constant("T", prod(lead))
    p.constant("K", depth)
    p.constant("N", first.shape[0])
    p.constant("ROWS", first.sizes[0])
    p.constant("J", len(numbers))
    p.lines.append(f"using Weight = {element_of(kind)};")
    choice = "".join(f"j == {j} ? {number} : " for j, number in enumerate(numbers[:-1]))
    p.method("int weight(int j)", f"return {choice}{numbers[-1]};")
    p.method("int first_row(int index)", f"return {affine(first.offsets.results[0], 'index')};")
    inputs = [p.read_number(value) for value in (op.x, *op.prologue_args)]
    p.constant(
        "same_x",
        all(number is not None and is_fixed(p.body.operands[number]) for number in inputs),
        "bool",
    )
    print_prologue(p, op)
    print_epilogue(p, op)
    if op.best is not None:
        _print_best(p, op, op.best.value.data)
    stream = p.body.op.stream
    if stream is None:
        return "DirectLinear"
    if set(stream.reads) != set(numbers):
        raise p.refuse(op, f"streams the operands {list(stream.reads)}, its weights are {numbers}")
    p.constant("STAGE_ROWS", stream.rows.data)
    p.constant("PARTS", stream.parts.data)
    if not first.is_packed:
        return "RingLinear"
    p.constant("polls", all(map(_is_polled(p), range(len(p.body.reads)))), "bool")
    return "PackedLinear"


def _print_best(p: BodyPrinter, op: tensor.LinearOp, of: int) -> None:
    """Of how many neighbours of a row of the result the best is kept, and where."""
    value, index = op.candidates
    *rows, chunks = shape_of(value)
    at = [*p.lead("0" if prod(rows) == 1 else "t", rows), "0" if chunks == 1 else "chunk"]
    p.constant("BEST", of)
    stores = [*p.stores(value, "value", at), *p.stores(index, "index", at)]
    p.method(f"void keep({WORK}, int t, int chunk, float value, mpk::i64 index)", *stores)


def _rounded(value: str, type: Attribute) -> str:
    """A float as it is stored, and read again, in a type of at most 32 bits."""
    if isinstance(type, BFloat16Type):
        return f"{SPELLING.round_bf16}({value})"
    return f"{SPELLING.round_f16}({value})" if isinstance(type, Float16Type) else value


def _is_polled(p: BodyPrinter) -> Callable[[int], bool]:
    """Whether an operand needs no event: it never changes, or carries marks."""
    return lambda number: p.is_weight(number) or p.body.operands[number].is_flagged


def print_prologue(p: BodyPrinter, op: tensor.LinearOp | tensor.ExpertLinearOp) -> None:
    """What x is before the product: any pointwise function of operands, then at most one norm."""
    x, norm = op.x, None
    if op.prologue is not None:
        p.enter(op.prologue.block, (op.x, *op.prologue_args))
        last = op.prologue.block.last_op
        assert isinstance(last, tensor.YieldOp)
        x = last.arguments[0]
    owner = p.source(x).owner
    if isinstance(owner, _NORMS):
        x, norm = owner.x, owner
    elif norm_within := _norm_before(p, x):
        raise p.refuse(norm_within, "is followed by another operator before the product")
    kind = {None: "none", tensor.RmsNormOp: "rms", tensor.LayerNormOp: "layer"}[norm and type(norm)]
    lines = [f"static constexpr mpk::Norm norm = mpk::Norm::{kind};"]
    *lead, _ = shape_of(op.x)
    rows = p.lead("0" if prod(lead) == 1 else "t", lead)
    lines += fetch_function(p, "load", x, rows, f"{WORK}, int t, int k", "x")
    lines += _direct(p, x, rows, prod(lead), norm is not None)
    if norm is not None:
        eps = float_literal(norm.eps.value.data)
        lines.append(f"static constexpr float eps = {eps};")
        constant = norm.weight is None or p.is_constant(norm.weight)
        lines.append(f"static constexpr bool constant_scale = {str(constant).lower()};")
        lines += scale_functions(p, norm.weight)
    if isinstance(norm, tensor.LayerNormOp):
        lines += fetch_function(p, "shift", norm.bias, [], f"{WORK}, int k", "b")
    p.lines += ["struct prologue {", *(f"  {line}" for line in lines), "};"]


def _norm_before(p: BodyPrinter, value: SSAValue) -> Operation | None:
    """A norm among what a value is computed from."""
    owner = p.source(value).owner
    if not isinstance(owner, Operation):
        return None
    if isinstance(owner, _NORMS):
        return owner
    return next(filter(None, (_norm_before(p, operand) for operand in owner.operands)), None)


def _direct(
    p: BodyPrinter, x: SSAValue, rows: list[str], tokens: int, is_scaled: bool
) -> list[str]:
    """Where x lies, if it is an operand as it is: then many elements can be asked for at once."""
    number = p.read_number(x)
    operand = None if number is None else p.body.operands[number]
    if number is None or operand is None or not _is_direct(operand, tokens):
        return [
            "static constexpr bool direct = false, exact = false;",
            "using X = float;",
        ]
    kind, place = operand_type(operand), p.pointer(number, [*rows, "k"])
    if operand.in_planes:
        # What rounding lost is for sums, not for products.
        kind = "mpk::Brief<mpk::bf16>"
        place = f"reinterpret_cast<const {kind}*>({place})"
    exact = not is_scaled and isinstance(operand.element_type, BFloat16Type)
    return [
        f"static constexpr bool direct = true, exact = {str(exact).lower()};",
        f"using X = {kind};",
        f"{DEVICE} const {kind}* x({WORK}, int t, int k) {{ return {place}; }}",
    ]


def _is_direct(operand: Operand, tokens: int) -> bool:
    """Whether as many elements as one request asks for are neighbours in memory, and of many tokens
    blocks lie alike."""
    is_bf16 = isinstance(operand.element_type, BFloat16Type) or operand.in_planes
    is_halves = operand.is_brief and is_bf16
    together = rows_aligned(operand, 8 if is_halves else 4) and not operand.is_packed
    alike = not operand.apart or task.PACKED_COLUMNS % operand.apart == 0
    if operand.panels is not None:
        alike = rows_aligned(operand, operand.panels.group)
    return together and (alike or tokens <= task.FEW_TOKENS)


def print_epilogue(p: BodyPrinter, op: tensor.LinearOp | tensor.ExpertLinearOp) -> None:
    """What becomes of the sums. Other operands are asked for before the sums are there, those that
    carry marks without a wait."""
    shape = shape_of(op.result)
    indices = [*p.lead("0" if prod(shape[:-1]) == 1 else "t", shape[:-1]), "row"]
    fields: list[str] = []
    requests: list[str] = []
    arrived: list[str] = []
    values: list[str] = []
    for number, extra in enumerate(op.epilogue_args):
        at, operand = broadcast(indices, shape_of(extra)), p.read_number(extra)
        marked = operand is not None and p.body.operands[operand].is_flagged
        if operand is not None and marked and p.inside(operand, at) is None:
            fields.append(f"mpk::Fetched<{operand_type(p.body.operands[operand])}, 1> e{number};")
            requests.append(f"e{number}.request({p.pointer(operand, at)});")
            arrived.append(f"e{number}.arrived(tag)")
            values.append(f"in.e{number}.get(0)")
        else:
            fields.append(f"{carried_type(element_type_of(extra))} e{number};")
            requests.append(f"e{number} = {p.element(extra, at)};")
            values.append(f"in.e{number}")
    parameters = f"{WORK}, int t, int row"
    statements: list[str] = []
    if op.epilogue is None:
        result = "y[0]"
    else:
        arguments = [*(f"y[{j}]" for j in range(len(op.weights)))]
        arguments += values
        result = p.region(op.epilogue.block, arguments, statements)
    statements += p.stores(op.result, result, indices)
    keeps = isinstance(op, tensor.LinearOp) and op.best is not None
    if keeps:
        statements.append(f"return {_rounded(result, element_type_of(op.result))};")
    p.lines += [
        "struct epilogue {",
        "  struct Inputs {",
        *(f"    {field}" for field in fields),
        f"    __device__ __forceinline__ void request({parameters}) {{ {' '.join(requests)} }}",
        "    __device__ __forceinline__ bool arrived(mpk::u32 tag) const {",
        f"      return {' & '.join(arrived) or 'true'};",
        "    }",
        "  };",
        f"  {DEVICE} {'float' if keeps else 'void'} store({parameters}, "
        "const float (&y)[J], const Inputs& in) {",
        *(f"    {statement}" for statement in statements),
        "  }",
        "};",
    ]
