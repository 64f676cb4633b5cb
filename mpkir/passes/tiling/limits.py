"""What the machine wants of tiles, and how many output features a task of a product takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from xdsl.dialects.builtin import FixedBitwidthType
from xdsl.ir import SSAValue

from mpkir.dialects import tensor

MANY = 8
"""From so many rows of x on a task's sums take much of the memory that its weights come through."""


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
    max_rows_of_many: int = 0
    """The same as `max_rows` of `MANY` rows of x and more; 0: as many."""

    def of_rows(self, rows: int) -> Limits:
        """The limits of linears of so many rows of x."""
        if rows < MANY or not self.max_rows_of_many:
            return self
        return replace(self, max_rows=min(self.max_rows, self.max_rows_of_many))


SAVES = 1 / 40
"""Part of the busiest worker's time that an uncommon size has to save. Of two that are balanced
alike the larger was 0.4 % slower, although it costs less here (docs/performance.md)."""


def features_per_task(
    features: int, row_bytes: int, weights: int, limits: Limits, products: int = 1
) -> int:
    """Output features of one task: the fewest bytes on the busiest worker, the larger tile of
    equals.

    Time of the busiest worker is (tasks it gets) x (bytes of a task + overhead), where each of
    `products` such products, all independent, is cut alike. Powers of two and a worker's even share
    in one task come first; any other size is taken where that saves enough (`SAVES`).
    """
    step = limits.row_multiple if features % limits.row_multiple == 0 else 1
    most = max(step, min(features, limits.max_rows // weights))
    share = ceil(ceil(products * features / limits.workers) / step) * step

    def busiest(size: int) -> tuple[int, int]:
        tasks = ceil(products * ceil(features / size) / limits.workers)
        return (tasks * (size * weights * row_bytes + limits.row_overhead_bytes), -size)

    sizes = range(step, most + 1, step)
    common = {step, 1, 2, 4, 8, 16, 32, 64, 128, share}
    usual = min(common.intersection(sizes), key=busiest)
    best = min(sizes, key=busiest)
    return best if busiest(best)[0] < (1 - SAVES) * busiest(usual)[0] else usual


def bytes_of(value: SSAValue) -> int:
    """Bytes of an element, at least one."""
    element_type = tensor.element_type_of(value)
    assert isinstance(element_type, FixedBitwidthType)
    return max(1, element_type.bitwidth // 8)
