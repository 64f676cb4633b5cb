"""Bodies -> one C++17 source: a function for each body, one switch, the launch's entry points."""

from __future__ import annotations

from collections.abc import Sequence

from mpkir.backends.body import Body
from mpkir.backends.cpu.body_printer import BodyPrinter
from mpkir.backends.cpu.operators import print_operator
from mpkir.backends.cpu.text import bind_operand
from mpkir.dialects.mesh import ranks_of
from mpkir.errors import MpkirError

_NAMED_FAMILIES = 4


def emit(bodies: Sequence[Body], workers: int, tokens_per_step: int) -> str:
    """The source text of a program.

    workers           threads that a launch starts, counting the caller
    tokens_per_step   by how much the position grows from one step to the next

    Raises MpkirError, naming the operator, its shapes and where it comes from, for a body without
    a form on the CPU.
    """
    printed = [_print_body(body) for body in bodies]
    ranks = max((ranks_of(body.op) for body in bodies), default=1)
    headers = sorted({"runtime", "tile"}.union(*(printer.headers for printer in printed)))
    lines = [
        *(f'#include "{h if "/" in h else f"mpk/{h}.hpp"}"' for h in headers),
        "",
        *(('extern "C" mpk::Peers mpk_peers;', "mpk::Peers mpk_peers;", "") if ranks > 1 else ()),
        "namespace {",
        "",
        *(line for printer in printed for line in _function(printer)),
        "struct Program {",
        f"  static constexpr int workers = {workers};",
        f"  static constexpr int tokens_per_step = {tokens_per_step};",
        f"  static constexpr bool dynamic = {str(any(b.is_dynamic for b in bodies)).lower()};",
        f"  static constexpr int ranks = {ranks};",
        *(("  static const mpk::Peers& peers() { return mpk_peers; }",) if ranks > 1 else ()),
        "  static constexpr long scratch_bytes = "
        f"{max((printer.scratch_bytes for printer in printed), default=0)};",
        "",
        "  static void run(mpk::Context& context, int body, const mpk::Operands& operands,",
        "                  int index) {",
        *_switch(printed, "body_{0}(context, operands, index)"),
        "  }",
        "",
        "  static void prefetch(int body, const mpk::Operands& operands, int index) {",
        *_switch([p for p in printed if p.prefetched], "prefetch_{0}(operands, index)"),
        "  }",
        "};",
        "",
        "}  // namespace",
        "",
        'extern "C" int mpk_run(const mpk::LaunchArgs* args) {',
        "  return mpk::launch<Program>(*args);",
        "}",
        'extern "C" int mpk_workers(void) { return Program::workers; }',
        'extern "C" int mpk_dynamic(void) { return Program::dynamic; }',
    ]
    return "\n".join(lines) + "\n"


def _print_body(body: Body) -> BodyPrinter:
    if any(operand.is_flagged for operand in body.operands):
        raise MpkirError(
            "hands over by flagged buffers, and threads have only counters",
            where=f"family @{body.families[0]}",
            hint="leave out mpk-choose-handoffs",
        )
    printer = BodyPrinter(body)
    printer.bind()
    for op in body.tile_ops:
        print_operator(printer, op)
    printer.store_rest()
    return printer


def _switch(printers: Sequence[BodyPrinter], call: str) -> list[str]:
    cases = [f"      case {p.body.index}: return {call.format(p.body.index)};" for p in printers]
    return ["    switch (body) {", *cases, "    }"] if cases else []


def _function(printer: BodyPrinter) -> list[str]:
    body = printer.body
    lines = [
        f"// {_families(body)}",
        f"void body_{body.index}([[maybe_unused]] mpk::Context& context, "
        "[[maybe_unused]] const mpk::Operands& operands, [[maybe_unused]] long index) {",
        *(f"  {line}" for line in (*_coordinates(body), *printer.declarations, *printer.calls)),
        "}",
        "",
    ]
    if not printer.prefetched:
        return lines
    binds = [
        bind_operand(f"r{number}", number, body.operands[number], body.grid, read=True)
        for number in printer.prefetched
    ]
    calls = [f"mpk::prefetch(r{number});" for number in printer.prefetched]
    return [
        *lines,
        f"void prefetch_{body.index}(const mpk::Operands& operands, "
        "[[maybe_unused]] long index) {",
        *(f"  {line}" for line in (*_coordinates(body), *binds, *calls)),
        "}",
        "",
    ]


def _families(body: Body) -> str:
    names = ", ".join(f"@{name}" for name in body.families[:_NAMED_FAMILIES])
    rest = len(body.families) - _NAMED_FAMILIES
    return f"{names} and {rest} more" if rest > 0 else names


def _coordinates(body: Body) -> list[str]:
    """Grid coordinates from the task's row-major index."""
    lines: list[str] = []
    inner = 1
    for dim in reversed(range(len(body.grid))):
        quotient = "index" if inner == 1 else f"index / {inner}"
        value = quotient if dim == 0 else f"{quotient} % {body.grid[dim]}"
        lines.append(f"[[maybe_unused]] const long g{dim} = {value};")
        inner *= body.grid[dim]
    return lines[::-1]
