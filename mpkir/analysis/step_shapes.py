"""The shapes of a step's program: what choices that were tuned for it are found by again.

Names do not count, nor how far the module has been raised or fused: only what the program keeps and
is given. The capacity of caches does not either, so that a choice serves any.
"""

from __future__ import annotations

from collections import Counter

from xdsl.dialects.builtin import ModuleOp, i64

from mpkir.dialects import tensor


def step_shapes(module: ModuleOp) -> tuple[str, ...]:
    """Of a module at tensor level, sorted lines such as "28 weights bf16[1024, 3072]"."""
    found: Counter[tuple[str, str, tuple[int | str, ...]]] = Counter()
    for op in module.walk():
        if isinstance(op, tensor.StateOp):
            element = str(tensor.element_type_of(op.result))
            found["states", element, _without_capacity(op)] += 1
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


def _without_capacity(state: tensor.StateOp) -> tuple[int | str, ...]:
    """The shape of a cache [batch, heads, capacity, size] or a token sequence [.., capacity + 1],
    the capacity left open."""
    *lead, last = tensor.shape_of(state.result)
    if len(lead) == 3:
        return (*lead[:2], "capacity", last)
    return (*lead, "capacity" if tensor.element_type_of(state.result) == i64 else last)
