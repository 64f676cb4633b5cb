"""Functions of a body that fetch neighbours of a row at once: of its input, of a norm's weights."""

from __future__ import annotations

from xdsl.ir import SSAValue

from mpkir.backends.cuda.address import operand_type, rows_aligned
from mpkir.backends.cuda.body_printer import BodyPrinter
from mpkir.backends.cuda.operand_printer import DEVICE, WORK


def fetch_function(
    p: BodyPrinter, name: str, value: SSAValue | None, rows: list[str], parameters: str, array: str
) -> list[str]:
    """A function that fetches E elements of a row from k on: 16 bytes at once where it can be."""
    lines = ["template <int E>"]
    signature = f"{DEVICE} void {name}({parameters}, float (&{array})[E])"
    if value is None:
        return [*lines, f"{signature} {{ for (int i = 0; i < E; ++i) {array}[i] = 1.0f; }}"]
    each = f"for (int i = 0; i < E; ++i) {array}[i] = {p.element(value, [*rows, 'k + i'])};"
    number = p.read_number(value)
    if number is None or not rows_aligned(p.body.operands[number], 8):
        return [*lines, f"{signature} {{ {each} }}"]
    element = operand_type(p.body.operands[number])
    if element not in ("mpk::bf16", "mpk::f16", "float"):
        return [*lines, f"{signature} {{ {each} }}"]
    constant = "constant_" if p.is_weight(number) else ""
    fetch = f"mpk::load_{constant}vector<{element}, E>({p.pointer(number, [*rows, 'k'])})"
    return [
        *lines,
        f"{signature} {{",
        f"  if constexpr (E > 1) {fetch}.unpack({array});",
        f"  else {each}",
        "}",
    ]


def scale_functions(p: BodyPrinter, weight: SSAValue | None) -> list[str]:
    """A norm's weights, 1 without any: `scale` fetches E of them, and `scale_row` says where they
    lie if they never change and 8 can be read at once."""
    lines = fetch_function(p, "scale", weight, [], f"{WORK}, int k", "g")
    number = None if weight is None else p.read_number(weight)
    aligned = number is not None and rows_aligned(p.body.operands[number], 8)
    if number is None or not aligned or not p.is_weight(number):
        return [*lines, "using Scale = void;"]
    return [
        *lines,
        f"using Scale = {operand_type(p.body.operands[number])};",
        f"{DEVICE} const Scale* scale_row({WORK}) {{ return {p.pointer(number, ['0'])}; }}",
    ]
