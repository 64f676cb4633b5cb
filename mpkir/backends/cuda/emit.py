"""Bodies -> one CUDA source: constants and functors for each body, one switch, the kernel."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from mpkir.analysis.settled_caches import caches_are_settled
from mpkir.backends.body import Body
from mpkir.backends.cuda.body_printer import BodyPrinter
from mpkir.backends.cuda.operators import print_members
from mpkir.backends.cuda.pace import pace_of
from mpkir.dialects import task
from mpkir.dialects.mesh import ranks_of
from mpkir.machine import Machine

_NAMED_FAMILIES = 4
_HEADERS = (
    "argmax",
    "attention",
    "attention_merge",
    "embedding",
    "expert_linear",
    "linear",
    "matmul",
    "norm",
    "packed_linear",
    "pointwise",
    "rotary",
    "runtime",
    "sdpa",
    "topk",
)


def emit(bodies: Sequence[Body], machine: Machine, tokens_per_step: int) -> str:
    """The source text of a program.

    machine           its shared memory and ring go into the kernel as constants
    tokens_per_step   by how much the position grows from one step to the next

    Raises MpkirError, naming the operator, its shapes and where it comes from, for a body without
    a form on a GPU.
    """
    ranks = ranks_of(bodies[0].op) if bodies else 1
    module = _module_of(bodies[0].op) if bodies else ModuleOp([])
    rings = [op for op in module.walk() if isinstance(op, task.RingOp)]
    in_flight = rings[0].in_flight.value.data if rings else 1
    pace = pace_of(module, machine)
    stages = machine.ring.caches and caches_are_settled(module)
    printed = print_bodies(bodies)
    kernels = ", ".join(f"kernel_{body.index}" for body in bodies)
    lines = [
        *([f"#define MPK_RANKS {ranks}"] if ranks > 1 else []),
        *(["#define MPK_NVSHMEM"] if ranks > 1 and machine.transport == "nvshmem" else []),
        # Who looks further has to know more tasks; others have a slot of the ring instead.
        *(["#define MPK_QUEUE 32"] if pace.ahead else []),
        *printed,
        "struct program {",
        f"  static constexpr int tokens = {tokens_per_step};",
        f"  static constexpr int shared_bytes = {machine.shared_memory};",
        f"  static constexpr int ring_slots = {machine.ring.slots};",
        f"  static constexpr int in_flight = {in_flight};",
        f"  static constexpr int ease = {machine.ring.ease}, pace = {pace.cycles};",
        f"  static constexpr int long_pace = {pace.long_cycles}, long_from = {pace.long_from};",
        f"  static constexpr int ahead = {pace.ahead};",
        f"  static constexpr bool stages = {str(stages).lower()};",
        f"  static constexpr int registers_from = {machine.ring.registers_from};",
        f"  static constexpr bool dynamic = {str(any(b.is_dynamic for b in bodies)).lower()};",
        f"  using bodies = mpk::Bodies<{kernels}>;",
        "",
        "  template <class Visitor>",
        "  static __device__ __forceinline__ void dispatch(int body, Visitor& visitor) {",
        "    switch (body) {",
        *(
            f"      case {body.index}: visitor.template visit<kernel_{body.index}>(); break;"
            for body in bodies
        ),
        "    }",
        "  }",
        "};",
        "",
        "MPK_KERNEL(program)",
    ]
    return "\n".join(lines) + "\n"


def _module_of(op: Operation) -> ModuleOp:
    parent = op.parent_op()
    if parent is None:
        assert isinstance(op, ModuleOp)
        return op
    return _module_of(parent)


def print_bodies(bodies: Sequence[Body]) -> list[str]:
    """The lines up to the bodies: body n is `kernel_n`. Raises MpkirError like `emit`."""
    structs: list[str] = []
    headers: set[str] = set()
    for body in bodies:
        printer = BodyPrinter(body)
        skeleton = print_members(printer)
        headers |= printer.headers
        template = skeleton if "::" in skeleton else f"mpk::{skeleton}"
        structs += [
            f"// {skeleton}: {_families(body)}",
            f"struct body_{body.index} {{",
            *(f"  {line}" for line in printer.lines),
            "};",
            f"using kernel_{body.index} = {template}<body_{body.index}>;",
            "",
        ]
    return [
        *(f"#include <mpk/{header}.cuh>" for header in _HEADERS),
        *(f"#include <{header}>" for header in sorted(headers)),
        "",
        *structs,
    ]


def _families(body: Body) -> str:
    names = ", ".join(f"@{name}" for name in body.families[:_NAMED_FAMILIES])
    rest = len(body.families) - _NAMED_FAMILIES
    return f"{names} and {rest} more" if rest > 0 else names
