"""The models that are measured: configurations at their true shapes; weights are random unless a
checkpoint is at hand.
"""

from __future__ import annotations

from mpkir.tools.bench.shapes import configurations

CAPACITY = 1024
MEASURED = ("smollm2-135m", "llama-3.2-1b", "qwen3-0.6b", "qwen3-8b")
"""Names of the models that results are published of; `small` and `small-mixture` serve checks."""

__all__ = ["CAPACITY", "MEASURED", "configurations"]
