"""Settings for every test: no network, few threads, GPU tests only where there is a GPU."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", str(min(4, os.cpu_count() or 1)))

import hypothesis
import pytest

hypothesis.settings.register_profile("mpkir", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("mpkir")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU"))
