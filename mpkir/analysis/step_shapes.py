"""The shapes of a step's program: what choices that were tuned for it are found by again.

Names do not count, nor how far the module has been raised or fused: only what the program keeps and
is given. The capacity of caches does not either, so that a choice serves any.
"""

from __future__ import annotations

from collections import Counter

from xdsl.dialects.builtin import ModuleOp

from mpkir.dialects import tensor


def step_shapes(module: ModuleOp) -> tuple[str, ...]:
    """Of a module at tensor level, sorted lines such as "28 weights bf16[1024, 3072]"."""
    found: Counter[tuple[str, str, tuple[int | str, ...]]] = Counter()
    states = [op for op in module.walk() if isinstance(op, tensor.StateOp)]
    shapes = [tensor.shape_of(op.result) for op in states]
    capacities = {shape[2] for shape in shapes if len(shape) == 4}
    longest = {*capacities, *(capacity + 1 for capacity in capacities)}
    for op, shape in zip(states, shapes, strict=True):
        free = tuple("capacity" if size in longest else size for size in shape)
        found["states", str(tensor.element_type_of(op.result)), free] += 1
    for op in module.walk():
        if isinstance(op, tensor.WeightOp | tensor.InputOp):
            kind = "weights" if isinstance(op, tensor.WeightOp) else "inputs"
            element = str(tensor.element_type_of(op.result))
            found[kind, element, tuple(tensor.shape_of(op.result))] += 1
    return tuple(
        sorted(
            f"{count} {kind} {element}[{', '.join(map(str, shape))}]"
            for (kind, element, shape), count in found.items()
        )
    )
