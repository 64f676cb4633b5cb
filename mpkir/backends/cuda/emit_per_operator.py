"""Bodies -> one CUDA source with a kernel for each body (include/mpk/per_operator.cuh)."""

from __future__ import annotations

from collections.abc import Sequence

from mpkir.backends.body import Body
from mpkir.backends.cuda.emit import print_bodies
from mpkir.machine import Machine


def emit_per_operator(bodies: Sequence[Body], machine: Machine, tokens_per_step: int) -> str:
    """The source text of a program whose bodies are kernels `mpk_run_0`, `mpk_run_1`, ..

    machine           its shared memory and ring, whole and halved, go into the kernels as constants
    tokens_per_step   by how much the position grows from one step to the next

    Raises MpkirError, naming the operator, its shapes and where it comes from, for a body without
    a form on a GPU.
    """
    numbers = [body.index for body in bodies]
    facts = (f"mpk::operator_facts<operator_{number}>()" for number in numbers)
    lines = [
        *print_bodies(bodies),
        "#include <mpk/per_operator.cuh>",
        "",
        "struct machine {",
        f"  static constexpr int tokens = {tokens_per_step};",
        f"  static constexpr int shared_bytes = {machine.shared_memory};",
        f"  static constexpr int ring_slots = {machine.ring.slots};",
        f"  static constexpr int half_bytes = {machine.block_memory};",
        f"  static constexpr int half_slots = {machine.block_ring.slots};",
        "};",
        "",
        *(f"MPK_OPERATOR({number}, machine, kernel_{number})" for number in numbers),
        f"MPK_OPERATORS(machine, {len(bodies)}, {', '.join(facts)})",
    ]
    return "\n".join(lines) + "\n"
