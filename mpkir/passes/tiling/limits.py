"""What the machine wants of tiles, and how many output features a task of a product takes."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from xdsl.dialects.builtin import FixedBitwidthType
from xdsl.ir import SSAValue

from mpkir.dialects import tensor


@dataclass(frozen=True)
class Limits:
    """What the machine wants of tiles."""

    workers: int
    max_rows: int
    """Most output features of a linear's task, all its weights together."""
    row_overhead_bytes: int
    """Cost of one more task, as bytes of weights that could be read meanwhile."""
    min_elements: int
    """Fewest elements worth a task of a pointwise operator."""
    row_multiple: int = 1
    """Output features of a linear's task come in multiples of this, where they divide by it."""


def features_per_task(
    features: int, row_bytes: int, weights: int, limits: Limits, products: int = 1
) -> int:
    """Output features of one task: the fewest bytes on the busiest worker, the larger tile of
    equals.

    Time of the busiest worker is (tasks it gets) x (bytes of a task + overhead), where each of
    `products` such products, all independent, is cut alike.
    """
    most = min(features, max(1, limits.max_rows // weights))
    even = ceil(products * features / limits.workers)
    step = limits.row_multiple if features % limits.row_multiple == 0 else 1
    even = ceil(even / step) * step
    candidates = {size for size in (1, 2, 4, 8, 16, 32, 64, 128) if size <= most}
    candidates |= {even} if even <= most else set()
    candidates = {size for size in candidates if size % step == 0} or {step}

    def busiest(size: int) -> tuple[int, int]:
        tasks = ceil(products * ceil(features / size) / limits.workers)
        return (tasks * (size * weights * row_bytes + limits.row_overhead_bytes), -size)

    return min(candidates, key=busiest)


def bytes_of(value: SSAValue) -> int:
    """Bytes of an element, at least one."""
    element_type = tensor.element_type_of(value)
    assert isinstance(element_type, FixedBitwidthType)
    return max(1, element_type.bitwidth // 8)
